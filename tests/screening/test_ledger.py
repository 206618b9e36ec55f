"""What is decided: each slide once, what was replaced or failed again, and few requests to go on."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import screening_drivers as sd
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer

from uadray.screening import leases
from uadray.screening import ledger as ledger_module
from uadray.storage import objects


@pytest.fixture
def out(s3: SeaweedServer, tmp_path: Path) -> str:
    return f"s3://{s3.bucket}/{tmp_path.name}"


def test_replaced_and_failed_slides_are_done_again_and_no_other(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 6)
    assert len(sd.screened(out, rows, fail="2")) == 6
    assert sd.screened(out, rows) == []
    before = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    objects.write_bytes(rows[4].uri, b"another version")
    objects.delete(rows[5].uri)  # gone: what was screened stays screened
    with sd.book(out) as book:
        assert [row.slide_id for row in book.pending(rows)] == ["s00004"]
        assert [row.slide_id for row in book.pending(rows, retry_failed=True)] == ["s00002", "s00004"]
    assert {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")} == before
    assert sd.screened(out, rows, retry_failed=True, fail="2") == ["s00002", "s00004"]  # once, though it fails again
    assert sd.screened(out, rows, retry_failed=True) == ["s00002"]
    after = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    assert sum(after[uri] != before[uri] for uri in after) == 2
    assert sd.decisions_table(out)["etag"][4].as_py() == objects.stat(rows[4].uri).etag
    assert sd.decisions_table(out)["state"].to_pylist() == ["scored"] * 6
    assert len(list(objects.list_objects(f"{out}/segments"))) == 1


def test_a_slide_that_is_given_back_stays_open_and_is_the_next_runs(tmp_path: Path) -> None:
    """No verdict, no lease left behind, and the round does not come again for its sake."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 3)
    with sd.book(out) as book:
        rounds = book.rounds(rows)
        for row in next(rounds):
            assert leases.claim(book.owner, row.slide_id) == "ours"
            if row.slide_id == "s00001":
                book.give_back(row.slide_id, "unreachable", "no answer")
            else:
                result = sd.scored(row, etag=objects.stat(row.uri).etag)
                book.commit(result, sd.verdicts(result))
        assert next(rounds, None) is None
        summary = book.finish(rows)
    assert (summary["scored"], summary["failed"], summary["open"]) == (2, 0, 1)
    assert book.given_back == {"s00001": "unreachable: no answer"}
    assert list(objects.list_objects(f"{out}/leases")) == []
    with sd.book(out) as book:
        assert [row.slide_id for row in book.pending(rows)] == ["s00001"]


def test_decisions_with_masks_outlast_a_run_without(tmp_path: Path) -> None:
    """A run that does not name the folder of masks leaves what was decided with them; one that does sees new masks."""
    out, rows, masks = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 3), tmp_path / "masks"
    masks.mkdir()
    (masks / "s00001.geojson").write_text("{}")
    with_masks = sd.Bundle(tiles=sd.TileSpec(mpp=sd.Mpp(0.5), tile_px=96, mask_dir=str(masks)))
    assert sd.screened(out, rows, with_masks) == ["s00000", "s00001", "s00002"]
    assert sd.screened(out, rows) == []
    assert sd.screened(out, rows, with_masks) == []
    (masks / "s00001.geojson").write_text("{ }")
    (masks / "s00002.geojson").write_text("{}")
    assert sd.screened(out, rows, with_masks) == ["s00001", "s00002"]
    assert sd.screened(out, rows) == []
    (masks / "s00001.geojson").unlink()
    assert sd.screened(out, rows, with_masks) == ["s00001"]
    (masks / "below").mkdir()
    (masks / "below" / "s00001.geojson").write_text("{}")  # is nobody's mask
    assert sd.screened(out, rows, with_masks) == []
    Path(rows[2].uri).write_bytes(b"another version")  # screened anew without the mask, and so it says
    assert sd.screened(out, rows) == ["s00002"]
    assert json.loads(objects.read_bytes(f"{out}/decisions/s00002.json"))["mask"] is None


def test_a_failure_leaves_no_scores_of_an_earlier_version(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 2)
    sd.screened(out, rows)
    Path(rows[0].uri).write_bytes(b"another version")
    with sd.book(out) as book:
        (row,) = next(book.rounds(rows))
        leases.claim(book.owner, row.slide_id, replaces=book.withdrawn[row.slide_id])
        failed = sd.failed(row)
        assert book.commit(failed, sd.verdicts(failed))
        summary = book.finish(rows)
    assert [objects.name(info.uri) for info in objects.list_objects(f"{out}/tiles")] == ["s00001.parquet"]
    assert (summary["failures"], summary["why_failed"]) == ({"unreadable": 1}, "s00000: unreadable: x")


def test_a_slide_that_could_not_be_judged_is_not_screened_again(tmp_path: Path) -> None:
    """Its failure tells the version of its file."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 1)
    with sd.book(out) as book:
        (row,) = next(book.rounds(rows))
        leases.claim(book.owner, row.slide_id)
        result = sd.failed(row, etag=objects.stat(row.uri).etag, reason="no_stain")
        verdict = {"state": "not_assessable", "decision": "not_assessable", "reason": "no_stain", "message": "x"}
        book.commit(result, [verdict])
        assert book.pending(rows) == []


@contextmanager
def _requests(server: SeaweedServer) -> Iterator[list[Request]]:
    """Requests of this process while the block runs."""
    with FaultProxy(server.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy.requests


@pytest.mark.s3
def test_going_on_takes_few_requests(s3: SeaweedServer, out: str) -> None:
    """Not three a slide."""
    rows = sd.rows(f"{out}/slides", 20)
    for row in rows:
        objects.write_bytes(row.uri, b"x")
    with _requests(s3) as requests:
        sd.screened(f"{out}/run", rows)
    # slide: lease, tiles, masks, pictures, decision, and the test's own stat
    assert len(requests) <= 20 * 6 + 30, Counter(request.method for request in requests)
    with _requests(s3) as requests, sd.book(f"{out}/run") as book:
        assert book.pending(rows) == []
        book.finish(rows)
    assert len(requests) <= 25, Counter(request.method for request in requests)  # none of them a slide
    objects.write_bytes(rows[7].uri, b"y")
    objects.delete(rows[8].uri)
    with sd.book(f"{out}/run") as book:
        assert [row.slide_id for row in book.pending(rows)] == ["s00007"]


def test_a_lease_stays_beside_its_decision_as_long_as_another_process_lives(tmp_path: Path) -> None:
    """The other has listed decisions before, and finds by the lease that the slide is not its own."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 4)
    with sd.book(out) as late:
        todo = next(late.rounds(rows))
        assert len(sd.screened(out, rows)) == 4
        left = [objects.name(info.uri) for info in objects.list_objects(f"{out}/leases")]
        assert sorted(left) == [f"{row.slide_id}.json" for row in rows]
        claims = [leases.claim(late.owner, row.slide_id) for row in todo]
        assert claims == ["decided"] * 4
        late.open.clear()
        late.finish(rows)
    assert sd.left_behind(out) == []


def test_the_last_of_two_processes_deletes_the_leases_of_both(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 2)
    with sd.book(out) as first, sd.book(out) as second:
        for ledger, row in zip((first, second), rows, strict=True):
            next(ledger.rounds(rows))
            assert leases.claim(ledger.owner, row.slide_id) == "ours"
            result = sd.scored(row, etag=objects.stat(row.uri).etag)
            assert ledger.commit(result, sd.verdicts(result))
        for ledger in (first, second):
            ledger.open.clear()
            ledger.finish(rows)
        assert len(list(objects.list_objects(f"{out}/leases"))) == 2
    assert sd.left_behind(out) == []


@pytest.mark.s3
def test_leases_are_deleted_many_at_once(out: str, s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LEASES_AT_ONCE", 8)
    rows = sd.rows(f"{out}/slides", 20)
    for row in rows:
        objects.write_bytes(row.uri, b"x")
    with _requests(s3) as requests:
        sd.screened(f"{out}/run", rows)
    assert sd.left_behind(f"{out}/run") == []
    methods = Counter(request.method for request in requests)
    assert methods["DELETE"] + methods["POST"] <= 8, methods
