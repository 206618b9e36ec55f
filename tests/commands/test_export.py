"""The command: its answer, its exit status, and what it says of slides that were not exported."""

import json
from pathlib import Path

import pytest
from made_up_exports import made_screening
from typer.testing import CliRunner

from uadray.cli import app


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the output where the test looks for it."""
    monkeypatch.setattr("uadray.commands.progress.divert", lambda: None)


def test_answer_and_status(tmp_path: Path) -> None:
    out = made_screening(tmp_path / "out")
    done = CliRunner().invoke(app, ["export", out, "--format", "geojson", "--threshold", "99%", "--slides", "s0,s1"])
    assert done.exit_code == 0
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["format"], answer["made"]) == ("geojson", 2)
    (tmp_path / "out/tiles/s2.parquet").unlink()
    done = CliRunner().invoke(app, ["export", out, "--format", "csv", "--to", str(tmp_path / "to"), "--anomalous-only"])
    assert done.exit_code == 1
    assert "1 slides were not exported: s2: missing" in done.output
    assert json.loads(done.stdout.splitlines()[-1])["made"] == 1


def test_slides_from_a_file(tmp_path: Path) -> None:
    out, listed = made_screening(tmp_path / "out"), tmp_path / "ids.txt"
    listed.write_text("s1\n\ns3\n")
    done = CliRunner().invoke(app, ["export", out, "--format", "hdf5", "--slides", f"@{listed}"])
    assert json.loads(done.stdout.splitlines()[-1])["made"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "pdf"], "no format 'pdf'"),
        (["--format", "csv", "--threshold", "high"], "expected a tile score"),
        (["--format", "csv", "--threshold", "120%"], "between 0% and 100%"),
        (["--format", "csv", "--coordinates", "world"], "expected level0 or qupath"),
        (["--format", "csv", "--slides", "@/nothing/there"], "/nothing/there"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), *options])
    assert type(done.exception).__name__ == "InputError"
    assert message in str(done.exception)
