"""Several bundles in one screening: one commit a slide, a decision of each bundle, a folder for each."""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import screening_drivers as sd
from seaweed import SeaweedServer

from uadray.errors import InputError
from uadray.evaluation.report import evaluate
from uadray.screening import decision_segments, leases
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.storage import objects

A, B = sd.Bundle("a", "a"), sd.Bundle("b", "b")


def _states(out: str, bundle: str) -> list[str]:
    states: list[str] = sd.decisions_table(f"{out}/{bundle}")["state"].to_pylist()
    return states


def _etags(out: str) -> dict[str, str]:
    return {objects.name(info.uri): info.etag for info in objects.list_objects(f"{out}/decisions")}


def test_what_is_written_once_and_what_of_each_bundle(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 2)
    assert len(sd.screened(out, rows, A, B)) == 2
    files = {str(path.relative_to(out)) for path in Path(out).rglob("[!.]*") if path.is_file()}
    of_people = ("decisions.parquet", "worklist.html", "worklist.csv", "worklist.xlsx", "summary.json")
    (segment,) = (name for name in files if name.startswith("segments/"))
    assert files - {segment} == {
        "run.json", "summary.json",
        *(f"{folder}/{row.slide_id}.{end}" for folder, end in (("decisions", "json"), ("masks", "geojson"))
          for row in rows),
        *(f"{folder}/{name}" for folder in ("a", "b", "combined") for name in of_people),
        *(f"{bundle}/tiles/{row.slide_id}.parquet" for bundle in "ab" for row in rows),
        *(f"{bundle}/evidence/{row.slide_id}.svg" for bundle in "ab" for row in rows),
    }  # fmt: skip
    record = json.loads(objects.read_bytes(leases.decision_uri(out, "s00000")))
    assert [(each["bundle"], each["score"]) for each in record["decisions"]] == [("a", 1.5), ("b", 2.5)]
    assert [bundle["folder"] for bundle in json.loads(objects.read_bytes(f"{out}/run.json"))["bundles"]] == ["a", "b"]
    for bundle, score in (("a", 1.5), ("b", 2.5)):
        assert sd.decisions_table(f"{out}/{bundle}")["score"].to_pylist() == [score] * 2
        assert pq.read_table(f"{out}/{bundle}/tiles/s00001.parquet")["score"].to_pylist() == [score] * 2
        page = Path(out, bundle, "worklist.html").read_text()
        assert '"evidence/s00000.svg#thumbnail"' in page
        assert '"evidence/s00000.svg#heatmap"' in page


def test_each_folder_is_a_screening_to_evaluate(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 4)
    sd.screened(out, rows, A, B)
    labelled = [SlideRow(row.slide_id, row.uri, label="normal" if i else "tumor") for i, row in enumerate(rows)]
    write_manifest(labelled, str(tmp_path / "m.csv"))
    result = evaluate(f"{out}/b", labels=str(tmp_path / "m.csv"))
    assert (result["n_normal"], result["n_anomalous"]) == (3, 1)


def test_a_killed_process_loses_no_slide_and_none_is_done_twice(tmp_path: Path) -> None:
    """Kill it in the middle, run it again: every decision of every bundle, once."""
    out = str(tmp_path / "out")
    shared = {"out": out, "folder": str(tmp_path), "n_slides": 12, "lease_s": 4.0, "n_bundles": 2}
    herd = sd.Herd(tmp_path, {"hang_after": 5}, **shared)
    herd.wait_for(lambda: {"hangs": True} in herd.events())
    os.kill(herd.pids[0], signal.SIGKILL)
    assert herd.codes() == [-signal.SIGKILL]
    before = _etags(out)
    assert len(before) == 5
    again = sd.Herd(tmp_path, {}, **shared)
    assert again.codes() == [0]
    after = _etags(out)
    assert {name: after[name] for name in before} == before
    assert herd.count("committed") + again.count("committed") == Counter(name[:-5] for name in after)
    for bundle in ("b0", "b1"):
        assert _states(out, bundle) == ["scored"] * 12
        assert len(list(objects.list_objects(f"{out}/{bundle}/tiles"))) == 12
    assert sd.left_behind(out) == []


@pytest.mark.s3
def test_two_processes_share_the_slides(s3: SeaweedServer, tmp_path: Path) -> None:
    out = f"s3://{s3.bucket}/{tmp_path.name}"
    herd = sd.Herd(
        tmp_path, *[{"work_s": 0.05}] * 2, out=out, folder=str(tmp_path), n_slides=16, lease_s=20.0, n_bundles=3,
        in_flight=2,
    )  # fmt: skip
    assert herd.codes() == [0, 0]
    rows = sd.rows(str(tmp_path), 16)
    assert herd.count("begun") == herd.count("committed") == Counter(row.slide_id for row in rows)
    assert all(any("committed" in event for event in herd.events(pid)) for pid in herd.pids)
    for i in range(3):
        assert sd.decisions_table(f"{out}/b{i}")["score"].to_pylist() == [1.5 + i] * 16
    assert sd.left_behind(out) == []


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ((A, B), (A,), "holds a screening with 2 bundles, a (a, calibration cal), b (b, calibration cal); this is "
                       "bundle a, calibration cal: name these bundles together to go on, or use another --out"),
        ((A,), (A, B), "holds a screening with bundle a, calibration cal; this is 2 bundles, a (a, calibration cal), "
                       "b (b, calibration cal): use another --out, or that bundle by itself to go on"),
        ((A, B), (A, sd.Bundle("c", "c")), "b (b, calibration cal); this is 2 bundles, a (a, calibration cal), c (c, "
                                           "calibration cal): name these bundles together to go on, or use"),
    ],
)  # fmt: skip
def test_a_folder_of_other_bundles_is_refused(
    there: tuple[sd.Bundle, ...], here: tuple[sd.Bundle, ...], message: str, tmp_path: Path
) -> None:
    sd.book(str(tmp_path), *there)
    with pytest.raises(InputError) as caught:
        sd.book(str(tmp_path), *here)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    sd.book(str(tmp_path), *reversed(there))


def _commit(out: str, rows: list[SlideRow], failing: dict[str, tuple[str, ...]], **options: Any) -> list[str]:
    """Screen with `a` and `b`; `failing`: slide -> the bundles whose detector fails at it."""
    done = []
    with sd.book(out, A, B) as ledger:
        for todo in ledger.rounds(rows, **options):
            for row in todo:
                assert leases.claim(ledger.owner, row.slide_id, replaces=ledger.withdrawn.get(row.slide_id)) == "ours"
                result = sd.scored(row, etag=objects.stat(row.uri).etag, n_bundles=2)
                failed = failing.get(row.slide_id, ())
                result.scores = tuple(
                    sd.BundleScores(failure=("scoring", "x")) if name in failed else scores
                    for name, scores in zip("ab", result.scores, strict=True)
                )
                assert ledger.commit(result, sd.verdicts(result, 2))
                done.append(row.slide_id)
        ledger.finish(rows)
    return done


def test_a_detector_that_fails_costs_its_own_verdict_alone(tmp_path: Path) -> None:
    """The other bundle's stands; the slide counts as failed, and is tried again with both where that is asked for."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 3)
    assert len(_commit(out, rows, {"s00001": ("b",)})) == 3
    assert (_states(out, "a"), _states(out, "b")) == (["scored"] * 3, ["scored", "failed", "scored"])
    assert sd.decisions_table(f"{out}/b")["reason"].to_pylist() == [None, "scoring", None]
    assert [objects.name(info.uri) for info in objects.list_objects(f"{out}/b/tiles")] == [
        "s00000.parquet", "s00002.parquet",
    ]  # fmt: skip
    summary = json.loads(objects.read_bytes(f"{out}/summary.json"))
    assert (summary["slides"], summary["scored"], summary["failed"], summary["open"]) == (3, 2, 1, 0)
    assert summary["failures"] == {"scoring": 1}
    assert {name: each["failed"] for name, each in summary["bundles"].items()} == {"a": 0, "b": 1}
    assert _commit(out, rows, {}) == []
    assert _commit(out, rows, {"s00001": ("a",)}, retry_failed=True) == ["s00001"]
    assert (_states(out, "a")[1], _states(out, "b")[1]) == ("failed", "scored")
    assert not objects.exists(f"{out}/a/tiles/s00001.parquet")  # no scores of an earlier try beside a failure
    assert _commit(out, rows, {}, retry_failed=True) == ["s00001"]
    assert _states(out, "a") == _states(out, "b") == ["scored"] * 3
    Path(rows[1].uri).write_bytes(b"another version")
    assert _commit(out, rows, {"s00001": ("a", "b")}) == ["s00001"]
    assert json.loads(objects.read_bytes(f"{out}/summary.json"))["failed"] == 1


def test_replaced_slides_and_edited_masks_are_done_again_for_all_bundles(tmp_path: Path) -> None:
    out, rows, masks = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 3), tmp_path / "masks"
    sd.screened(out, rows, A, B)
    Path(rows[0].uri).write_bytes(b"another version")
    assert sd.screened(out, rows, A, B) == ["s00000"]
    masks.mkdir()
    (masks / "s00002.geojson").write_text("{}")
    spec = A.tiles.model_copy(update={"mask_dir": str(masks)})
    with_masks = [sd.Bundle(each.id, each.name, spec) for each in (A, B)]
    assert sd.screened(out, rows, *with_masks) == ["s00002"]
    assert sd.screened(out, rows, A, B) == []
    for bundle in "ab":
        assert [mask is not None for mask in sd.decisions_table(f"{out}/{bundle}")["mask"].to_pylist()] == [
            False, False, True,
        ]  # fmt: skip
        assert sd.decisions_table(f"{out}/{bundle}")["etag"][0].as_py() == objects.stat(rows[0].uri).etag


def test_segments_hold_a_row_of_each_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_segments, "SEGMENT_ROWS", 3)
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 5)
    sd.screened(out, rows, A, B)
    decided = decision_segments.read_decisions(out)
    assert (len(decided.table), len(decided.segments), decided.unsegmented) == (10, 1, 0)
    objects.delete(decided.segments[0])
    assert decision_segments.read_decisions(out).unsegmented == 10
    with sd.book(out, A, B) as ledger:
        assert ledger.pending(rows) == []
        summary = ledger.finish(rows)
    assert (summary["scored"], summary["open"]) == (5, 0)
    record = json.loads(objects.read_bytes(leases.decision_uri(out, "s00003")))
    record["decisions"][1]["score"] = 9.0
    objects.write_bytes(leases.decision_uri(out, "s00003"), json.dumps(record).encode())
    table = decision_segments.read_decisions(out).table
    assert decision_segments.of_bundle(table, "b", ["s00003", "s00000"])["score"].to_pylist() == [9.0, 2.5]
    assert decision_segments.of_bundle(table, "a", ["s00003"])["score"].to_pylist() == [1.5]
