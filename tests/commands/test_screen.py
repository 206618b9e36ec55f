"""`uadray screen`: what the command refuses, and what it says of slides that are not decided."""

from pathlib import Path

import pytest
from command_line import run

from uadray.commands.screen import check_all_decided
from uadray.errors import WorkError


def test_several_bundles_are_refused_for_now(tmp_path: Path) -> None:
    done = run("screen", "a", "b", "--slides", "m.csv", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.strip()) == (2, "uadray: several bundles: not yet")
    assert not (tmp_path / "out").exists()


def test_slides_without_a_decision_are_failed_work() -> None:
    counts = {"slides": 9, "open": 0, "failed": 0, "worklist": "out/worklist.html"}
    check_all_decided(counts)
    check_all_decided({"slides": 9, "tiles": 100})  # of a dry run
    with pytest.raises(WorkError, match=r"^2 of 9 slides failed: s1: no mpp; see out/worklist\.html$"):
        check_all_decided(counts | {"failed": 2, "why_failed": "s1: no mpp"})
    with pytest.raises(WorkError, match=r"^1 of 9 slides are open, no fault of theirs: s1: no disk; the same command"):
        check_all_decided(counts | {"open": 1, "why_open": "s1: no disk", "failed": 2})
