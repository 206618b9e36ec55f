"""`uadray screen`: what the command refuses, and what it says of slides that are not decided."""

import subprocess
import sys
from pathlib import Path

import pytest
import screening_drivers as sd
from command_line import answer, run

from uadray.bench.slides import write_calibration, write_tiny_bundle
from uadray.commands.screen import check_all_decided
from uadray.detectors.bundle import Bundle
from uadray.errors import WorkError
from uadray.screening import leases
from uadray.screening.bundles import arranged, calibrated_bundle
from uadray.screening.ledger import open_ledger
from uadray.slides.manifest import write_manifest
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


def _finished(folder: Path) -> list[str]:
    """Decide two slides; returns the arguments with which they are screened."""
    write_tiny_bundle(str(folder / "bundle"))
    rows, out = sd.slides(folder / "slides", 2), str(folder / "out")
    write_manifest(rows, str(folder / "m.csv"))
    with open_ledger(out, arranged([calibrated_bundle(str(folder / "bundle"))])) as book:
        for row in next(book.rounds(rows)):
            assert leases.claim(book.owner, row.slide_id) == "ours"
            result = sd.scored(row, etag=objects.stat(row.uri).etag)
            assert book.commit(result, sd.verdicts(result))
        book.finish(rows)
    return ["screen", str(folder / "bundle"), "--slides", str(folder / "m.csv"), "--out", out]


def test_nothing_left_to_do_waits_for_neither_ray_nor_torch(tmp_path: Path) -> None:
    arguments = _finished(tmp_path)
    done = run(*arguments, env={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert answer(done)["scored"] == 2
    assert answer(done)["slides_now"] == 0
    assert "uadray.screening.job" in imported
    assert imported & {"ray", "torch"} == set()


def test_a_folder_takes_the_place_of_its_manifest(tmp_path: Path) -> None:
    """What was decided from the manifest is not done again; too few slides to calibrate are counted in the folder."""
    arguments = _finished(tmp_path)
    arguments[arguments.index("--slides") + 1] = str(tmp_path / "slides")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert (answer(done)["slides"], answer(done)["slides_now"], answer(done)["scored"]) == (2, 0, 2)
    refused = run("calibrate", str(tmp_path / "bundle"), "--slides", str(tmp_path / "slides"))
    assert refused.returncode == 2
    assert "alpha 0.05 needs at least 19 normal slides" in refused.stderr
    assert "there are 2" in refused.stderr


def test_a_bundle_edited_by_hand_is_looked_into(tmp_path: Path) -> None:
    """A description whose identity is not the one that was calibrated is validated before anything is begun."""
    write_tiny_bundle(str(tmp_path / "bundle"))
    description = tmp_path / "bundle" / "bundle.json"
    description.write_text(description.read_text().replace('"width": 4', '"width": -4'))
    done = run("screen", str(tmp_path / "bundle"), "--slides", "m.csv", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "detector.width" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_decides_imports_no_torch() -> None:
    """Neither the driver nor a reader: it is 260 MB a process, and a second of its start."""
    code = "import uadray.screening.results, uadray.screening.slide_reader, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
