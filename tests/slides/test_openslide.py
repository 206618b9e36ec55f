"""Which releases of OpenSlide may be installed."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def test_openslides_that_corrupt_lower_edges_are_not_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = next(r for r in map(Requirement, project["dependencies"]) if r.name == "openslide-bin")
    assert [v for v in ("4.0.0.8", "4.0.0.9", "4.0.0.10", "4.0.0.11", "4.0.1.2") if v in wanted.specifier] == [
        "4.0.0.8",
        "4.0.1.2",
    ]
