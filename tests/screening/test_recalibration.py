"""A screening is decided anew from its tile scores: nothing is lost, whatever is killed and whoever else comes."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import recalibrations
import screening_drivers as sd
from recalibrations import NEW, book, redecide
from seaweed import SeaweedServer

from uadray.errors import InputError
from uadray.screening import kept_calibrations, leases
from uadray.screening.heartbeats import ScreeningProcess
from uadray.screening.ledger import open_ledger
from uadray.screening.run_record import read_run_record
from uadray.screening.verdicts import verdicts_of
from uadray.slides.manifest import SlideRow
from uadray.slides.slide import Mpp
from uadray.storage import objects

A, B = sd.Bundle("a", "a"), sd.Bundle("b", "b")


def _screened(out: str, rows: list[SlideRow], *bundles: sd.Bundle, score: float = 2.5) -> None:
    """Screened as the command does, with slides whose files have their real etags; the last slide is no slide."""
    with book(out, *bundles) as ledger:
        ledger.begin_round()
        for place, row in enumerate(rows):
            assert leases.claim(ledger.owner, row.slide_id) == "ours"
            etag = objects.stat(row.uri).etag
            result = sd.scored(row, etag=etag, score=score + place / 10, n_bundles=max(1, len(bundles)))
            result = sd.failed(row) if place == len(rows) - 1 else result
            assert ledger.commit(result, verdicts_of(result, ledger.bundles))
        ledger.finish(rows)


def _rows(folder: Path, n: int = 4) -> list[SlideRow]:
    rows = sd.slides(folder, n)
    return [replace(row, mpp=Mpp(0.5), site="North") if i % 2 else row for i, row in enumerate(rows)]


def _record(out: str, slide_id: str) -> dict[str, Any]:
    return dict(json.loads(objects.read_bytes(leases.decision_uri(out, slide_id))))


@pytest.mark.parametrize("same_scores", [False, True])
def test_a_screening_is_decided_anew(tmp_path: Path, same_scores: bool) -> None:
    out, rows = str(tmp_path / "out"), _rows(tmp_path)
    _screened(out, rows)
    before, table = _record(out, "s00001"), sd.decisions_table(out)
    summary = redecide(out, same_scores=same_scores)
    assert (summary["redecided"], summary["scored"], summary["failed"], summary["slides"]) == (4, 3, 1, 4)
    after, now = _record(out, "s00001"), sd.decisions_table(out)
    assert (before["decision"], before["p_value"], before["calibration_id"]) == ("normal", 0.5, "cal")
    assert (after["decision"], after["p_value"], after["calibration_id"]) == ("anomalous", 0.5, "new")
    assert after["fingerprint"] != before["fingerprint"]
    kept = ("score", "decided_at", "evidence", "pictures", "lease", "site", "patient", "tile_score_median")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert now["slide_id"].to_pylist() == table["slide_id"].to_pylist()
    assert now["calibration_id"].to_pylist() == ["new"] * 3 + [None]
    archived = pq.read_table(kept_calibrations.kept_uri(out, "cal", "decisions.parquet"))
    of_all = ["q_value", "calibration_holds"]
    assert archived.drop_columns(of_all).equals(table.drop_columns(of_all))
    assert read_run_record(out).bundles[0].calibration_id == "new"
    assert redecide(out)["redecided"] == 0


def test_screening_goes_on_with_the_new_calibration(tmp_path: Path) -> None:
    """The bundle has its old calibration still. Nothing is screened twice; a new slide gets the new calibration."""
    out, rows = str(tmp_path / "out"), _rows(tmp_path, 5)
    _screened(out, rows[:4])
    redecide(out)
    with book(out) as ledger:
        assert [each.calibration.id for each in ledger.bundles] == ["new"]
        assert [row.slide_id for row in ledger.pending(rows)] == ["s00004"]
        Path(rows[1].uri).write_bytes(b"another")
        assert [row.slide_id for row in ledger.pending(rows)] == ["s00001", "s00004"]
        ledger.begin_round()
        result = sd.scored(rows[4], etag="e", score=2.5)
        assert leases.claim(ledger.owner, "s00004") == "ours"
        assert ledger.commit(result, verdicts_of(result, ledger.bundles))
    assert [_record(out, f"s0000{i}")["calibration_id"] for i in (0, 4)] == ["new", "new"]


def test_a_folder_that_never_had_a_calibration_is_refused_with_what_to_do(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), _rows(tmp_path)
    _screened(out, rows)
    with pytest.raises(InputError, match="uadray recalibrate"):
        open_ledger(out, recalibrations.panel())
    redecide(out)
    other = [replace(each, calibration=NEW.model_copy(update={"id": "other"})) for each in sd.panel()]
    with pytest.raises(InputError, match="uadray recalibrate"):
        open_ledger(out, other)


def test_marks_of_patients_stay_the_same(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    rows = [replace(row, patient_id="p") for row in _rows(tmp_path, 3)]
    _screened(out, rows[:2])
    redecide(out)
    with book(out) as ledger:
        ledger.begin_round()
        assert leases.claim(ledger.owner, "s00002") == "ours"
        result = sd.scored(rows[2])
        assert ledger.commit(result, verdicts_of(result, ledger.bundles))
    assert _record(out, "s00000")["patient"] == _record(out, "s00002")["patient"] is not None


def test_several_bundles(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), _rows(tmp_path)
    _screened(out, rows, A, B)
    redecide(out, A, B)
    assert [each["calibration_id"] for each in _record(out, "s00000")["decisions"]] == ["newa", "newb"]
    for folder in "ab":
        assert sd.decisions_table(f"{out}/{folder}")["calibration_id"].to_pylist() == [f"new{folder}"] * 3 + [None]
    with book(out, A, B) as ledger:
        assert ledger.pending(rows) == []


def test_tile_scores_that_are_gone_are_a_failure_that_can_be_tried_again(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), _rows(tmp_path)
    _screened(out, rows)
    objects.delete(f"{out}/tiles/s00000.parquet")
    Path(out, "tiles", "s00001.parquet").write_bytes(b"PAR1 or what")
    assert redecide(out)["failed"] == 3
    assert "--retry-failed" in _record(out, "s00001")["message"]
    with book(out) as ledger:
        assert [row.slide_id for row in ledger.pending(rows, retry_failed=True)] == ["s00000", "s00001", "s00003"]


def test_it_is_refused_while_a_process_screens_there(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), _rows(tmp_path)
    _screened(out, rows)
    run = objects.read_bytes(f"{out}/run.json")
    with book(out), pytest.raises(InputError, match="is being screened"):
        redecide(out)
    assert objects.read_bytes(f"{out}/run.json") == run


def test_a_process_that_begins_meanwhile_is_seen_and_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read `run.json` before that says so, and its heartbeat comes after this process has looked."""
    out, rows = str(tmp_path / "out"), _rows(tmp_path)
    _screened(out, rows)
    run, late, real = objects.read_bytes(f"{out}/run.json"), ScreeningProcess(out), objects.replace_if_match

    def replace_if_match(uri: str, data: bytes, etag: str) -> bool:
        if uri.endswith("run.json"):
            late._join()
        return real(uri, data, etag)

    monkeypatch.setattr(objects, "replace_if_match", replace_if_match)
    with pytest.raises(InputError, match="is being screened"):
        redecide(out)
    late.leave()
    assert json.loads(objects.read_bytes(f"{out}/run.json")) == json.loads(run)
    assert _record(out, "s00000")["calibration_id"] == "cal"


def test_a_screening_that_begins_meanwhile_is_refused(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), _rows(tmp_path)
    _screened(out, rows)
    late = book(out)
    redecide(out)
    with pytest.raises(InputError, match="decided anew this very moment"), late:
        pass
    assert sd.left_behind(out) == []


@pytest.mark.s3
def test_a_screening_in_s3(s3: SeaweedServer, tmp_path: Path) -> None:
    out, rows = f"s3://{s3.bucket}/{tmp_path.name}", _rows(tmp_path)
    _screened(out, rows, A, B)
    assert redecide(out, A, B)["redecided"] == 4
    for folder in ("a", "b", "combined"):
        assert sd.decisions_table(f"{out}/{folder}")["state"].to_pylist() == ["scored"] * 3 + ["failed"]
    assert objects.exists(f"{out}/recalibrated/cala/decisions.parquet")
    with book(out, A, B) as ledger:
        assert ledger.pending(rows) == []


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("kills")
    _screened(str(folder / "screened"), _rows(folder, 3))
    command = [sys.executable, recalibrations.__file__, str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return list(json.loads(answer.stdout))


def test_killed_before_any_write_it_ends_complete(steps: list[dict[str, Any]]) -> None:
    assert [step["code"] for step in steps] == [-signal.SIGKILL] * (len(steps) - 1) + [0]
    assert len(steps) > 12
    for step in steps:
        assert step["again"] == 0
        ended = step["ended"]
        assert ended["calibrations"] == {"s00000": "new", "s00001": "new", "s00002": None}
        assert not ended["recalibrating"]
        assert ended["before"]
        assert ended == steps[-1]["ended"]


def test_killed_before_any_write_no_slide_is_lost_and_the_old_ones_are_kept(steps: list[dict[str, Any]]) -> None:
    states = set()
    for step in steps[:-1]:
        killed = step["killed"]
        assert list(killed["calibrations"]) == ["s00000", "s00001", "s00002"]
        decided = {killed["calibrations"]["s00000"], killed["calibrations"]["s00001"]}
        assert decided <= {"cal", "new"}
        assert "new" not in decided or killed["before"]
        assert decided != {"cal", "new"} or killed["recalibrating"]
        states.add((*sorted(decided), killed["recalibrating"]))
    assert {("cal", False), ("cal", True), ("cal", "new", True), ("new", True)} <= states
