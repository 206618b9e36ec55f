"""Several drivers on one screening: each slide once, whoever dies or stands still; and few requests to go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import screening_drivers as sd
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer

from uadray.errors import InputError
from uadray.screening import decision_segments, heartbeats, leases, ledger
from uadray.screening.ledger import Ledger
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

DRIVERS = Path(__file__).with_name("screening_drivers.py")


class Herd:
    """Driver processes and what they did."""

    def __init__(self, home: Path, *plans: dict[str, Any], **shared: Any) -> None:
        self.log = home / f"log{len(list(home.glob('log*')))}"
        self.log.mkdir()
        (self.log / "plan").write_text(json.dumps([{"log": str(self.log), **shared, **plan} for plan in plans]))
        self.process = subprocess.Popen([sys.executable, DRIVERS, self.log / "plan"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.pids: list[int] = json.loads(self.process.stdout.readline())

    def events(self, pid: int | None = None) -> list[dict[str, Any]]:
        files = self.log.glob(f"{pid or '*'}.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def count(self, what: str) -> Counter[str]:
        return Counter(event[what] for event in self.events() if what in event)

    def wait_for(self, happened: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.02)

    def codes(self) -> list[int]:
        """Exit codes, when all have ended."""
        assert self.process.stdout is not None
        out, _ = self.process.communicate(timeout=120)
        return list(json.loads(out))


def _consistent(out: str, rows: list[SlideRow]) -> list[float]:
    """The slides' scores, after a look whether each decision stands beside the tiles that it was made from."""
    scores = []
    for row in rows:
        decision = json.loads(objects.read_bytes(leases.decision_uri(out, row.slide_id)))
        tiles = pq.read_table(pa.BufferReader(objects.read_bytes(f"{out}/tiles/{row.slide_id}.parquet")))
        assert set(tiles["score"].to_pylist()) == {decision["score"]}, row.slide_id
        scores.append(decision["score"])
    return scores


def _table(out: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(objects.read_bytes(f"{out}/decisions.parquet")))


def _left_behind(out: str) -> list[str]:
    return [info.uri for name in ("leases", "drivers") for info in objects.list_objects(f"{out}/{name}")]


@pytest.fixture
def out(s3: SeaweedServer, tmp_path: Path) -> str:
    return f"s3://{s3.bucket}/{tmp_path.name}"


# --- real processes -------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_eight_drivers_screen_every_slide_once(out: str, tmp_path: Path) -> None:
    herd = Herd(tmp_path, *[{}] * 8, out=out, folder=str(tmp_path), n_slides=24, lease_s=20.0, in_flight=2)
    assert herd.codes() == [0] * 8
    rows = sd.rows(str(tmp_path), 24)
    assert herd.count("begun") == herd.count("committed") == Counter(row.slide_id for row in rows)
    assert len({pid for pid in herd.pids if any("committed" in event for event in herd.events(pid))}) > 1
    assert _table(out)["slide_id"].to_pylist() == [row.slide_id for row in rows]
    assert json.loads(objects.read_bytes(f"{out}/summary.json"))["scored"] == 24
    assert _consistent(out, rows) == [1.5] * 24
    assert _left_behind(out) == []
    assert 1 <= len(list(objects.list_objects(f"{out}/segments"))) <= 8


@pytest.mark.s3
def test_the_slides_of_a_killed_driver_are_taken_over(out: str, tmp_path: Path) -> None:
    """At once on the same machine: its process is gone, whatever `lease_s` says."""
    first = {"hang_after": 2, "score": 1.0}
    herd = Herd(tmp_path, first, {"work_s": 0.1}, out=out, folder=str(tmp_path), n_slides=16, lease_s=4.0)
    victim = herd.pids[0]
    herd.wait_for(lambda: {"hangs": True} in herd.events(victim))
    os.kill(victim, signal.SIGKILL)
    assert herd.codes() == [-signal.SIGKILL, 0]
    begun, committed = herd.count("begun"), herd.count("committed")
    held = {event["begun"] for event in herd.events(victim) if "begun" in event} - {
        event["committed"] for event in herd.events(victim) if "committed" in event
    }
    assert held
    assert begun == committed + Counter(held)
    assert set(committed.values()) == {1}
    assert len(committed) == 16
    assert sorted(_consistent(out, sd.rows(str(tmp_path), 16))).count(1.0) == 2
    assert _left_behind(out) == []


def test_a_driver_that_stood_still_commits_nothing_twice(tmp_path: Path) -> None:
    """SIGSTOP is what a sleeping laptop, a frozen container or another host looks like: its process is not gone."""
    out = str(tmp_path / "out")
    both = {"out": out, "folder": str(tmp_path), "n_slides": 10, "lease_s": 1.5}
    herd = Herd(tmp_path, {"work_s": 0.3, "score": 1.0}, **both)
    herd.wait_for(lambda: bool(herd.count("committed")))
    os.kill(herd.pids[0], signal.SIGSTOP)
    other = Herd(tmp_path, {"score": 2.0}, **both)
    assert other.codes() == [0]
    before = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    assert len(before) == 10
    os.kill(herd.pids[0], signal.SIGCONT)
    assert herd.codes() == [0]
    assert {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")} == before
    committed = herd.count("committed") + other.count("committed")
    assert set(committed.values()) == {1}
    assert len(committed) == 10
    assert set(_consistent(out, sd.rows(str(tmp_path), 10))) == {1.0, 2.0}
    assert _left_behind(out) == []


@pytest.mark.s3
def test_failed_slides_are_tried_again_once_by_two_drivers(out: str, tmp_path: Path) -> None:
    """Also where the driver that was at it is killed: the failed decision stays until another takes its place."""
    shared = {"out": out, "folder": str(tmp_path), "n_slides": 14, "lease_s": 3.0}
    assert Herd(tmp_path, {"fail": "3"}, **shared).codes() == [0]
    assert json.loads(objects.read_bytes(f"{out}/summary.json"))["failed"] == 2
    before = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    herd = Herd(tmp_path, {"retry_failed": True, "hang_after": 0}, **shared)
    herd.wait_for(lambda: {"hangs": True} in herd.events())
    os.kill(herd.pids[0], signal.SIGKILL)
    assert herd.codes() == [-signal.SIGKILL]
    assert {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")} == before
    herd = Herd(tmp_path, *[{"retry_failed": True}] * 2, **shared)
    assert herd.codes() == [0, 0]
    assert herd.count("committed") == herd.count("begun") == Counter(["s00003", "s00013"])
    after = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    assert {uri[-11:-5] for uri in after if after[uri] != before[uri]} == {"s00003", "s00013"}
    assert _table(out)["state"].to_pylist() == ["scored"] * 14
    assert _left_behind(out) == []


# --- every order of two drivers' requests -----------------------------------------------------------------------------


class Stopped:
    """A call in a thread that stops before its n-th request until it is let go; `steps` counts requests."""

    def __init__(self, call: Callable[[], object], before_step: int) -> None:
        self.steps, self._stop_at = 0, before_step
        self._go, self._there = threading.Event(), threading.Event()
        self.result: object = None
        self.thread = threading.Thread(target=self._run, args=(call,))
        self.thread.start()
        assert self._there.wait(30)

    def step(self) -> None:
        if self.steps == self._stop_at:
            self._there.set()
            assert self._go.wait(30)
        self.steps += 1

    def go_on(self) -> object:
        self._go.set()
        self.thread.join(30)
        return self.result

    def _run(self, call: Callable[[], object]) -> None:
        _stopped[threading.get_ident()] = self
        try:
            self.result = call()
        finally:
            del _stopped[threading.get_ident()]
            self._there.set()


_stopped: dict[int, Stopped] = {}


@pytest.fixture
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request that decides something can be stopped at. Pictures go out from other threads."""

    def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() in _stopped:
                _stopped[threading.get_ident()].step()
            return function(*args, **kwargs)

        return call

    for name in ("stat", "read_bytes", "read_ranges", "put_if_absent", "replace_if_match", "delete"):
        monkeypatch.setattr(objects, name, stopping(getattr(objects, name)))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of files; nothing here is about a disk


def _paused(out: str, rows: list[SlideRow]) -> Ledger:
    """A driver with all of `rows` claimed, whose heart does not beat: it knows that it was away for too long."""
    book = sd.book(out, lease_s=0)
    next(book.rounds(rows))
    book._driver._join()
    for row in rows:
        assert leases.claim(book.tenure, row.slide_id) == "ours"
    return book


def _commit(book: Ledger, row: SlideRow, score: float) -> Callable[[], bool]:
    result = sd.scored(row, score=score)
    return lambda: book.commit(result, sd.verdict(result))  # type: ignore[arg-type]


@pytest.mark.usefixtures("_steps")
@pytest.mark.parametrize("late", range(6))
def test_whoever_stops_where_decision_and_tiles_agree(late: int, tmp_path: Path) -> None:
    """A stops before its `late`-th request; B takes the slide and stops before any of its own; A goes on; B goes on."""
    for place in range(12):
        out, row = str(tmp_path / f"out{place}"), SlideRow("s", str(tmp_path / "s.tif"))
        first = _paused(out, [row])
        a = Stopped(_commit(first, row, 1.0), late)
        objects.write_bytes(leases.driver_uri(out, first._driver.id), heartbeats.GRAVESTONE)
        second = sd.book(out, lease_s=0)
        mine = next(second.rounds([row]), None)
        if mine is None or leases.claim(second.tenure, "s") == "decided":
            a.go_on()
            assert _consistent(out, [row]) == [1.0]
            continue
        b = Stopped(_commit(second, row, 2.0), place)
        committed = [a.go_on(), b.go_on()]
        assert True in committed
        scores = _consistent(out, [row])
        assert committed[1 if scores == [2.0] else 0] is True
        assert not list(objects.list_objects(f"{out}/leases"))


@pytest.mark.usefixtures("_steps")
def test_a_third_driver_does_not_trust_what_two_have_mixed(tmp_path: Path) -> None:
    """A stops after its tiles; B takes the slide, writes its tiles and dies; A's decision comes; C takes over."""
    out, row = str(tmp_path / "out"), SlideRow("s", str(tmp_path / "s.tif"))
    first = _paused(out, [row])
    a = Stopped(_commit(first, row, 1.0), 2)  # after: is it ours, tiles; before: decision
    assert objects.exists(f"{out}/tiles/s.parquet")
    objects.write_bytes(leases.driver_uri(out, first._driver.id), heartbeats.GRAVESTONE)
    second, third = sd.book(out, lease_s=0), sd.book(out)
    assert next(second.rounds([row])) == next(third.rounds([row])) == [row]
    assert leases.claim(second.tenure, "s") == "ours"
    assert second._put(f"{out}/tiles/s.parquet", ledger._parquet(sd.scored(row, score=2.0).tiles), "s")
    a.go_on()
    with pytest.raises(AssertionError):
        _consistent(out, [row])
    assert leases.claim(third.tenure, "s") == "ours"
    assert _commit(third, row, 3.0)()
    assert _consistent(out, [row]) == [3.0]


def test_claims_by_threads(tmp_path: Path) -> None:
    """Eight at the same slides: one of them gets each, and gets it again when it asks again."""
    out = str(tmp_path)
    tenures = [leases.Tenure(out, f"d{i}", 1) for i in range(8)]
    for tenure in tenures:
        objects.write_bytes(leases.driver_uri(out, tenure.driver), b'{"beat": 1}')
    slides, barrier, got = [f"s{i}" for i in range(12)], threading.Barrier(8), Counter[str]()

    def run(tenure: leases.Tenure) -> None:
        barrier.wait()
        for slide in slides:
            if leases.claim(tenure, slide) == "ours":
                got[slide] += 1
                assert leases.claim(tenure, slide) == "ours"

    threads = [threading.Thread(target=run, args=(tenure,)) for tenure in tenures]
    [thread.start() for thread in threads]  # type: ignore[func-returns-value]
    [thread.join() for thread in threads]  # type: ignore[func-returns-value]
    assert got == Counter(slides)


# --- drivers ----------------------------------------------------------------------------------------------------------


def _beating_elsewhere(out: str, lease_s: float) -> str:
    """The heartbeat of a driver on another machine."""
    uri = leases.driver_uri(out, "far")
    objects.write_bytes(uri, json.dumps({"driver": "far", "machine": "m", "lease_s": lease_s}).encode())
    return uri


def test_a_driver_elsewhere_is_dead_when_it_was_seen_unchanged(tmp_path: Path) -> None:
    out = str(tmp_path)
    uri = _beating_elsewhere(out, 0.3)
    me = heartbeats.Driver(out)
    assert me.look() == {me.id, "far"}
    time.sleep(1)  # a pause of the observer counts as half of it at most
    assert me.look() == {me.id, "far"}
    objects.write_bytes(uri, json.dumps({"driver": "far", "lease_s": 0.3, "beat": 2}).encode())
    for _ in range(2):
        time.sleep(0.2)
        assert me.look() == {me.id, "far"}
    time.sleep(0.2)
    assert me.look() == {me.id}
    assert objects.read_bytes(uri) == heartbeats.GRAVESTONE


def test_a_buried_driver_joins_again_and_knows(tmp_path: Path) -> None:
    with heartbeats.Driver(str(tmp_path)) as me:
        me.beat()
        assert not me.in_doubt
        for act in (lambda uri: objects.write_bytes(uri, heartbeats.GRAVESTONE), objects.delete):
            act(leases.driver_uri(me.out, me.id))
            me.beat()
            assert me.in_doubt
            assert json.loads(objects.read_bytes(leases.driver_uri(me.out, me.id)))["driver"] == me.id
            me.tenure()
            assert not me.in_doubt
    assert not objects.exists(leases.driver_uri(me.out, me.id))


# --- what is decided --------------------------------------------------------------------------------------------------


def _slides(folder: Path, n: int) -> list[SlideRow]:
    rows = sd.rows(str(folder), n)
    for row in rows:
        objects.write_bytes(row.uri, row.slide_id.encode())
    return rows


def _screened(out: str, rows: list[SlideRow], *, fail: str = "-", **how: Any) -> list[str]:
    """Screen what is pending; returns the slides that were."""
    done = []
    with sd.book(out) as book:
        for todo in book.rounds(rows, **how):
            for row in todo:
                assert leases.claim(book.tenure, row.slide_id, replaces=book.withdrawn.get(row.slide_id)) == "ours"
                result = sd.scored(row, etag=objects.stat(row.uri).etag)
                if row.slide_id.endswith(fail):
                    result = sd.Result(row, failure=("unreadable", "x"))
                assert book.commit(result, sd.verdict(result))  # type: ignore[arg-type]
                done.append(row.slide_id)
        book.finish(rows)
    return done


def test_replaced_and_failed_slides_are_done_again_and_no_other(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), _slides(tmp_path / "slides", 6)
    assert len(_screened(out, rows, fail="2")) == 6
    assert _screened(out, rows) == []
    before = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    objects.write_bytes(rows[4].uri, b"another version")
    objects.delete(rows[5].uri)  # gone: what was screened stays screened
    with sd.book(out) as book:
        assert [row.slide_id for row in book.pending(rows)] == ["s00004"]
        assert [row.slide_id for row in book.pending(rows, retry_failed=True)] == ["s00002", "s00004"]
    assert {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")} == before
    assert _screened(out, rows, retry_failed=True, fail="2") == ["s00002", "s00004"]  # once, though it fails again
    assert _screened(out, rows, retry_failed=True) == ["s00002"]
    after = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    assert sum(after[uri] != before[uri] for uri in after) == 2
    assert _table(out)["etag"][4].as_py() == objects.stat(rows[4].uri).etag
    assert _table(out)["state"].to_pylist() == ["scored"] * 6
    assert len(list(objects.list_objects(f"{out}/segments"))) == 1


def test_a_segment_is_never_the_truth(tmp_path: Path) -> None:
    """Old, damaged, foreign, lost: the JSONs are what counts."""
    out, rows = str(tmp_path / "out"), _slides(tmp_path / "slides", 4)
    _screened(out, rows)
    (segment,) = objects.list_objects(f"{out}/segments")
    uri = leases.decision_uri(out, "s00001")
    record = json.loads(objects.read_bytes(uri)) | {"score": 9.0}
    objects.write_bytes(uri, json.dumps(record).encode())
    objects.delete(leases.decision_uri(out, "s00002"))
    objects.write_bytes(f"{out}/segments/damaged.parquet", objects.read_bytes(segment.uri)[:-9])
    pq.write_table(pa.table({"slide_id": ["s00003"]}), f"{out}/segments/foreign.parquet")
    found = decision_segments.read_decisions(out)
    assert dict(zip(found.table["slide_id"].to_pylist(), found.table["score"].to_pylist(), strict=True)) == {
        "s00000": 1.5, "s00001": 9.0, "s00003": 1.5,
    }  # fmt: skip
    assert found.loose == 1
    objects.delete(segment.uri)
    assert len(decision_segments.read_decisions(out).table) == 3
    with sd.book(out) as book:
        summary = book.finish(rows)
    assert (summary["slides"], summary["scored"], summary["open"]) == (4, 3, 1)
    assert "1 slide" in Path(summary["worklist"]).read_text()


def test_a_slide_that_is_given_back_stays_open_and_is_the_next_runs(tmp_path: Path) -> None:
    """No verdict, no lease left behind, and the round does not come again for its sake."""
    out, rows = str(tmp_path / "out"), _slides(tmp_path / "slides", 3)
    with sd.book(out) as book:
        rounds = book.rounds(rows)
        for row in next(rounds):
            assert leases.claim(book.tenure, row.slide_id) == "ours"
            if row.slide_id == "s00001":
                book.give_back(row.slide_id, "unreachable", "no answer")
            else:
                result = sd.scored(row, etag=objects.stat(row.uri).etag)
                book.commit(result, sd.verdict(result))  # type: ignore[arg-type]
        assert next(rounds, None) is None
        summary = book.finish(rows)
    assert (summary["scored"], summary["failed"], summary["open"]) == (2, 0, 1)
    assert book.given_back == {"s00001": "unreachable: no answer"}
    assert list(objects.list_objects(f"{out}/leases")) == []
    with sd.book(out) as book:
        assert [row.slide_id for row in book.pending(rows)] == ["s00001"]


def test_decisions_with_masks_outlast_a_run_without(tmp_path: Path) -> None:
    """A run that does not name the folder of masks leaves what was decided with them; one that does sees new masks."""
    out, rows, masks = str(tmp_path / "out"), _slides(tmp_path / "slides", 3), tmp_path / "masks"
    masks.mkdir()
    (masks / "s00001.geojson").write_text("{}")
    with_masks = sd.Bundle(tiles=sd.TileSpec(mpp=sd.Mpp(0.5), tile_px=96, mask_dir=str(masks)))
    assert _done(out, rows, with_masks) == ["s00000", "s00001", "s00002"]
    assert _done(out, rows, sd.Bundle()) == []
    assert _done(out, rows, with_masks) == []
    (masks / "s00001.geojson").write_text("{ }")
    (masks / "s00002.geojson").write_text("{}")
    assert _done(out, rows, with_masks) == ["s00001", "s00002"]
    assert _done(out, rows, sd.Bundle()) == []
    (masks / "s00001.geojson").unlink()
    assert _done(out, rows, with_masks) == ["s00001"]
    (masks / "below").mkdir()
    (masks / "below" / "s00001.geojson").write_text("{}")  # is nobody's mask
    assert _done(out, rows, with_masks) == []
    Path(rows[2].uri).write_bytes(b"another version")  # screened anew without the mask, and so it says
    assert _done(out, rows, sd.Bundle()) == ["s00002"]
    assert json.loads(objects.read_bytes(f"{out}/decisions/s00002.json"))["mask"] is None


def _done(out: str, rows: list[SlideRow], bundle: sd.Bundle) -> list[str]:
    with sd.book(out, bundle=bundle) as book:
        todo = next(book.rounds(rows), [])
        for row in todo:
            leases.claim(book.tenure, row.slide_id, replaces=book.withdrawn.get(row.slide_id))
            result = sd.scored(row, etag=objects.stat(row.uri).etag)
            assert book.commit(result, sd.verdict(result))  # type: ignore[arg-type]
        book.finish(rows)
    return [row.slide_id for row in todo]


@pytest.mark.s3
def test_a_screening_is_not_begun_on_a_store_that_ignores_conditions(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"s3://{s3.bucket}/unconditional"
    with FaultProxy(s3.endpoint, lambda r: "unconditional" if r.conditions else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(InputError, match="does not honour"):
            sd.book(out)
        assert list(objects.list_objects(out)) == []


def test_a_failure_leaves_no_scores_of_an_earlier_version(tmp_path: Path) -> None:
    out, rows = str(tmp_path / "out"), _slides(tmp_path / "slides", 2)
    _done(out, rows, sd.Bundle())
    Path(rows[0].uri).write_bytes(b"another version")
    with sd.book(out) as book:
        (row,) = next(book.rounds(rows))
        leases.claim(book.tenure, row.slide_id, replaces=book.withdrawn[row.slide_id])
        failed = sd.Result(row, failure=("unreadable", "x"))
        assert book.commit(failed, sd.verdict(failed))  # type: ignore[arg-type]
        summary = book.finish(rows)
    assert [objects.name(info.uri) for info in objects.list_objects(f"{out}/tiles")] == ["s00001.parquet"]
    assert (summary["failures"], summary["why_failed"]) == ({"unreadable": 1}, "s00000: unreadable: x")


def test_a_slide_that_could_not_be_judged_is_not_screened_again(tmp_path: Path) -> None:
    """Its failure tells the version of its file."""
    out, rows = str(tmp_path / "out"), _slides(tmp_path / "slides", 1)
    with sd.book(out) as book:
        (row,) = next(book.rounds(rows))
        leases.claim(book.tenure, row.slide_id)
        result = sd.Result(row, {"etag": objects.stat(row.uri).etag}, failure=("no_stain", "one colour"))
        verdict = {"state": "not_assessable", "decision": "not_assessable", "reason": "no_stain", "message": "x"}
        book.commit(result, verdict)  # type: ignore[arg-type]
        assert book.pending(rows) == []


def test_segments_are_written_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that dies leaves few decisions that are read one by one; the last one merges the segments."""
    monkeypatch.setattr(decision_segments, "SEGMENT_ROWS", 4)
    out, rows = str(tmp_path / "out"), _slides(tmp_path / "slides", 10)
    with sd.book(out) as book:
        for row in next(book.rounds(rows)):
            leases.claim(book.tenure, row.slide_id)
            result = sd.scored(row, etag=objects.stat(row.uri).etag)
            book.commit(result, sd.verdict(result))  # type: ignore[arg-type]
    found = decision_segments.read_decisions(out)
    assert (len(found.table), len(found.segments), found.loose) == (10, 2, 2)
    with sd.book(out) as book:
        assert book.finish(rows)["scored"] == 10
    found = decision_segments.read_decisions(out)
    assert (len(found.table), len(found.segments), found.loose) == (10, 1, 0)


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
        _screened(f"{out}/run", rows)
    # slide: lease, is it decided, tiles, masks, thumbnail, heatmap, decision, lease gone, and the test's own stat
    assert len(requests) <= 20 * 9 + 30, Counter(request.method for request in requests)
    with _requests(s3) as requests, sd.book(f"{out}/run") as book:
        assert book.pending(rows) == []
        book.finish(rows)
    assert len(requests) <= 20, Counter(request.method for request in requests)
    objects.write_bytes(rows[7].uri, b"y")
    objects.delete(rows[8].uri)
    with sd.book(f"{out}/run") as book:
        assert [row.slide_id for row in book.pending(rows)] == ["s00007"]


def test_another_bundles_folder_is_refused(tmp_path: Path) -> None:
    sd.book(str(tmp_path))
    with pytest.raises(InputError, match="use another --out"):
        ledger.open_ledger(str(tmp_path), bundle=sd.Bundle(id="other"), calibration=sd.CALIBRATION)  # type: ignore[arg-type]
