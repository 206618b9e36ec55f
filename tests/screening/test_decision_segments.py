"""Segments: fewer requests, and never the truth."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import screening_drivers as sd

from uadray.decisions.slide_measures import MEASURES
from uadray.screening import decision_segments, leases
from uadray.storage import objects


def test_a_segment_is_never_the_truth(tmp_path: Path) -> None:
    """Old, damaged, foreign, lost: the JSONs are what counts."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 4)
    sd.screened(out, rows)
    (segment,) = objects.list_objects(f"{out}/segments")
    uri = leases.decision_uri(out, "s00001")
    record = json.loads(objects.read_bytes(uri)) | {"score": 9.0}
    objects.write_bytes(uri, json.dumps(record).encode())
    objects.delete(leases.decision_uri(out, "s00002"))
    objects.write_bytes(f"{out}/segments/damaged.parquet", objects.read_bytes(segment.uri)[:-9])
    pq.write_table(pa.table({"slide_id": ["s00003"]}), f"{out}/segments/foreign.parquet")
    decided = decision_segments.read_decisions(out)
    assert dict(zip(decided.table["slide_id"].to_pylist(), decided.table["score"].to_pylist(), strict=True)) == {
        "s00000": 1.5, "s00001": 9.0, "s00003": 1.5,
    }  # fmt: skip
    assert decided.unsegmented == 1
    objects.delete(segment.uri)
    assert len(decision_segments.read_decisions(out).table) == 3
    with sd.book(out) as book:
        summary = book.finish(rows)
    assert (summary["slides"], summary["scored"], summary["open"]) == (4, 3, 1)
    assert "1 slide" in Path(summary["worklist"]).read_text()


def test_segments_are_written_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that dies leaves few decisions that are read one by one; the last one merges the segments."""
    monkeypatch.setattr(decision_segments, "SEGMENT_ROWS", 4)
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 10)
    with sd.book(out) as book:
        for row in next(book.rounds(rows)):
            leases.claim(book.owner, row.slide_id)
            result = sd.scored(row, etag=objects.stat(row.uri).etag)
            book.commit(result, sd.verdicts(result))
    decided = decision_segments.read_decisions(out)
    assert (len(decided.table), len(decided.segments), decided.unsegmented) == (10, 2, 2)
    with sd.book(out) as book:
        assert book.finish(rows)["scored"] == 10
    decided = decision_segments.read_decisions(out)
    assert (len(decided.table), len(decided.segments), decided.unsegmented) == (10, 1, 0)


def test_segments_of_older_versions_still_count(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    sd.screened(out, sd.slides(tmp_path / "slides", 3))
    (segment,) = objects.list_objects(f"{out}/segments")
    table = pq.read_table(segment.uri)
    new = ["decided_at", *MEASURES, "read_seconds", "score_seconds", "patient"]
    pq.write_table(table.drop_columns(["site", "scanner", "stain", "pictures", *new]), segment.uri)
    decided = decision_segments.read_decisions(out)
    assert decided.unsegmented == 0
    of_bundle = decision_segments.of_bundle(decided.table, "", ["s00002", "s00000"])
    assert of_bundle["site"].to_pylist() == [None, None]
    assert of_bundle["score"].to_pylist() == [1.5, 1.5]
    assert all(of_bundle[name].null_count == 2 for name in new)
    uri = leases.decision_uri(out, "s00001")
    record = json.loads(objects.read_bytes(uri))
    objects.write_bytes(uri, json.dumps({name: value for name, value in record.items() if name not in new}).encode())
    decided = decision_segments.read_decisions(out)
    assert (len(decided.table), decided.unsegmented) == (3, 1)
    assert decided.table["decided_at"].null_count == 3


def test_what_is_known_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read where nothing is new, a few JSONs singly, and segments again where many are."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 9)
    sd.screened(out, rows[:4])
    known = decision_segments.read_decisions(out).table
    objects.delete(leases.decision_uri(out, "s00001"))
    uri = leases.decision_uri(out, "s00002")
    record = json.loads(objects.read_bytes(uri)) | {"score": 9.0}
    objects.write_bytes(uri, json.dumps(record).encode())
    decided = decision_segments.read_decisions(out, known=known)
    assert (decided.segments, decided.unsegmented) == ((), 1)
    scores = dict(zip(decided.table["slide_id"].to_pylist(), decided.table["score"].to_pylist(), strict=True))
    assert scores == {"s00000": 1.5, "s00002": 9.0, "s00003": 1.5}
    again = decision_segments.read_decisions(out, known=decided.table)
    assert (again.table, again.segments, again.unsegmented) == (decided.table, (), 0)
    monkeypatch.setattr(decision_segments, "WORTH_A_SEGMENT", 3)
    sd.screened(out, rows)
    more = decision_segments.read_decisions(out, known=decided.table)
    assert (len(more.table), len(more.segments), more.unsegmented) == (9, 1, 0)
