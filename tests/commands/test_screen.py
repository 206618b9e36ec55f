"""`uadray screen`: what the command refuses, and what it says of slides that are not decided."""

from pathlib import Path

import pytest
from command_line import run

from uadray.bench.slides import write_calibration, write_tiny_bundle
from uadray.commands.screen import check_all_decided
from uadray.detectors.bundle import Bundle
from uadray.errors import WorkError
from uadray.storage import objects


def _other_tiles(folder: Path, bundle: Bundle) -> None:
    """The same weights with other tiles, and a calibration of their own."""
    other = bundle.model_copy(update={"tiles": bundle.tiles.model_copy(update={"mpp": 0.5})})
    objects.write_bytes(str(folder / "bundle.json"), other.model_dump_json().encode())
    write_calibration(str(folder), other)


def test_bundles_that_cannot_be_screened_together_are_refused_in_one_line(tmp_path: Path) -> None:
    _other_tiles(tmp_path / "b", write_tiny_bundle(str(tmp_path / "a")))
    out = str(tmp_path / "out")
    done = run("screen", str(tmp_path / "a"), str(tmp_path / "b"), "--slides", "m.csv", "--out", out)
    expected = f"uadray: bundles {tmp_path}/a and {tmp_path}/b read different tiles: mpp 0.486 and 0.5; tiles are read"
    assert done.returncode == 2
    assert done.stderr.startswith(expected)
    assert len(done.stderr.splitlines()) == 1
    assert not Path(out).exists()


def test_slides_without_a_decision_are_failed_work() -> None:
    counts = {"slides": 9, "open": 0, "failed": 0, "worklist": "out/worklist.html"}
    check_all_decided(counts)
    check_all_decided({"slides": 9, "tiles": 100})  # of a dry run
    with pytest.raises(WorkError, match=r"^2 of 9 slides failed: s1: no mpp; see out/worklist\.html$"):
        check_all_decided(counts | {"failed": 2, "why_failed": "s1: no mpp"})
    with pytest.raises(WorkError, match=r"^1 of 9 slides are open, no fault of theirs: s1: no disk; the same command"):
        check_all_decided(counts | {"open": 1, "why_open": "s1: no disk", "failed": 2})
    pages = {"a": "out/a/worklist.html", "b": "out/b/worklist.html"}
    with pytest.raises(WorkError, match=r"see out/a/worklist\.html, out/b/worklist\.html$"):
        check_all_decided(counts | {"failed": 1, "why_failed": "s1: no mpp", "worklist": pages})
