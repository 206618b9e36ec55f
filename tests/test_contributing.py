"""The code in CONTRIBUTING.md runs as it stands there, in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_exports import BOUNDS, made_slide

from uadray.slides.tile_reading import read_tile

ROOT = Path(__file__).parents[1]


def _code(section: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text.split(f"## {section}", 1)[1].split("\n## ", 1)[0], re.DOTALL)
    return str(code)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, to add to."""
    shutil.copytree(ROOT / "uadray", tmp_path / "uadray", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_benchmark(copy: Path) -> None:
    (copy / "uadray/bench/mask.py").write_text(_code("A benchmark"), encoding="utf-8")
    index = copy / "uadray/bench/index.py"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace('"decode": ', '"mask": (), "decode": ', 1), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "from uadray.cli import app; app(['bench', 'mask'])"],
        cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]).keys() == {"bench", "over_limit", "goals", "goals_met"}


def test_an_export() -> None:
    scope: dict[str, object] = {}
    imports = "from uadray.exports.exported_slide import ExportedSlide, ExportOptions\n"
    call = "written = exported(slide, ExportOptions(coordinates='qupath'))"
    scope["slide"] = made_slide([[0, 0], [0, 9]], **BOUNDS)
    exec(imports + _code("An export") + call, scope)  # noqa: S102
    assert scope["written"] == b"124 174 224 224\n"


def test_a_slide_format(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (100, 140, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    scope: dict[str, object] = {}
    imports = "import numpy as np\nfrom uadray.errors import SlideError\nfrom uadray.slides.slide import Rgb\n"
    call = f"s = ArraySlide({str(tmp_path / 'a.npy')!r}, slide_id='a', mpp=0.5)"
    exec(imports + _code("A slide format") + call, scope)  # noqa: S102
    slide = scope["s"]
    tile = read_tile(slide, x_level0_px=10, y_level0_px=20, mpp=0.5, tile_px=64)  # type: ignore[arg-type]
    np.testing.assert_array_equal(tile, pixels[20:84, 10:74])
    corner = read_tile(slide, x_level0_px=-8, y_level0_px=90, mpp=0.5, tile_px=32)  # type: ignore[arg-type]
    expected = np.full((32, 32, 3), 255, np.uint8)
    expected[:10, 8:] = pixels[90:, :24]
    np.testing.assert_array_equal(corner, expected)
