"""`uadray demo`: which folders it leaves alone. What it finds is held by tests/faults/test_jobs.py."""

from pathlib import Path

from command_line import run

from uadray.commands import demo


def test_the_demo_does_not_touch_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = run("demo", "--out", str(tmp_path))
    assert done.returncode == 2
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert demo.MARK not in {p.name for p in tmp_path.iterdir()}
