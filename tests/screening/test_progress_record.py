"""What those who watch a screening are told of its drivers: of living ones, killed ones, and the last that ended."""

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import screening_drivers as sd
from seaweed import SeaweedServer

from uadray.errors import UnreachableError, WorkError
from uadray.screening import heartbeats
from uadray.screening.job import Committer
from uadray.screening.leases import heartbeat_uri
from uadray.screening.progress_record import Progress, read_progress
from uadray.storage import objects

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def _beat(out: str, name: str, *, ago_s: float, lease_s: float = 60.0, **more: object) -> None:
    at = (NOW - timedelta(seconds=ago_s)).isoformat()
    progress = {"at": at, "started": at, "slides": 10, "open": 4, "stages": {"read": 2.5}} | more.pop("progress", {})  # type: ignore[operator]
    beat = {"driver": name, "lease_s": lease_s, "machine": "another", "progress": progress} | more
    objects.write_bytes(heartbeat_uri(out, name), json.dumps(beat).encode())


def _states(out: str) -> dict[str, str]:
    return {each.driver: each.state for each in read_progress(out, now=NOW)}


def test_alive_or_dead_is_told_from_age_and_lease(tmp_path: Path) -> None:
    out = str(tmp_path)
    assert read_progress(out) == []
    _beat(out, "alive", ago_s=50)
    _beat(out, "late", ago_s=70)
    _beat(out, "patient", ago_s=70, lease_s=100)
    _beat(out, "marked", ago_s=1, dead=True)
    objects.write_bytes(heartbeat_uri(out, "older"), b'{"driver": "older", "beat": 3}')
    assert _states(out) == {"alive": "alive", "late": "dead", "patient": "alive", "marked": "dead", "older": "alive"}
    by_name = {each.driver: each for each in read_progress(out, now=NOW)}
    assert by_name["late"].lag_s == 70
    assert by_name["alive"].progress is not None
    assert by_name["alive"].progress.stages == {"read": 2.5}
    assert (by_name["older"].lag_s, by_name["older"].progress) == (None, None)


@pytest.mark.parametrize("nonsense", [
    b"", b"[]", b"not json", b"[" * 60_000, b"x" * 100_000,
    b'{"at": "2026-01-01T00:00:00", "started": "2026-01-01T00:00:00"}',
    b'{"at": "2026-01-01T00:00:00Z", "started": "2026-01-01T00:00:00Z", "open": -1}',
    b'{"at": "2026-01-01T00:00:00Z", "started": "2026-01-01T00:00:00Z", "stages": {"read": NaN}}',
])  # fmt: skip
def test_nonsense_tells_nothing(tmp_path: Path, nonsense: bytes) -> None:
    out = str(tmp_path)
    objects.write_bytes(f"{out}/progress.json", nonsense)
    objects.write_bytes(heartbeat_uri(out, "odd"), nonsense)
    assert all(each.progress is None for each in read_progress(out))


def test_what_a_dead_driver_said_last_is_kept_when_it_is_declared_dead(tmp_path: Path) -> None:
    out = str(tmp_path)
    _beat(out, "far", ago_s=5, lease_s=0.2)
    me = heartbeats.ScreeningProcess(out)
    me.look()
    for _ in range(3):
        time.sleep(0.15)
        me.look()
    (dead,) = read_progress(out, now=NOW)
    assert (dead.driver, dead.state, dead.lag_s) == ("far", "dead", 5.0)
    assert dead.progress is not None
    assert dead.progress.open == 4


def test_a_screening_tells_how_far_it_is_and_how_it_ended(tmp_path: Path) -> None:
    """While it works by its heartbeat, then by `progress.json`: done, or why not."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 3)
    committer = Committer(3, progress=None)
    with sd.book(out) as book:
        book.describe = lambda: committer.state(book)
        book._process.beat()
        (early,) = read_progress(out)
        todo = next(book.rounds(rows))
        committer.take(iter([sd.scored(todo[0])]), book)
        book._process.beat()
        (late,) = read_progress(out)
    assert early.progress is not None
    assert early.progress.open is None, "it has not looked yet"
    assert (late.state, late.driver) == ("alive", book._process.id)
    assert late.progress is not None
    assert (late.progress.slides, late.progress.open, late.progress.slides_now, late.progress.tiles_now) == (3, 2, 1, 2)
    assert late.progress.oldest_open is not None
    assert timedelta(0) <= datetime.now(UTC) - late.progress.oldest_open < timedelta(seconds=60)
    (end,) = read_progress(out)
    assert (end.state, end.driver) == ("ended", book._process.id)
    assert end.progress is not None
    assert (end.progress.why, end.progress.open) == ("done", 2)
    assert _why(out, WorkError("the disk is full")) == "failed: the disk is full"
    assert _why(out, KeyboardInterrupt()) == "stopped"
    with sd.book(out) as book:
        book.describe = lambda: committer.state(book)
        book.begin_round()
        book.give_back("s00001", "node", "it is gone")
    assert _last(out).why == "failed: 1 slides are left open, for what is no fault of theirs"


def _why(out: str, error: BaseException) -> str:
    with pytest.raises(type(error)), sd.book(out) as book:  # noqa: PT012 - the error is the end of the process
        book.describe = lambda: Committer(3, progress=None).state(book)
        raise error
    return _last(out).why


def _last(out: str) -> Progress:
    (end,) = read_progress(out)
    assert end.progress is not None
    return end.progress


def test_a_beat_goes_out_whatever_becomes_of_the_description(tmp_path: Path) -> None:
    out = str(tmp_path)

    def broken() -> dict[str, object]:
        raise RuntimeError("changed size during iteration")

    with heartbeats.ScreeningProcess(out) as me:
        me.describe = broken
        me.beat()
        (there,) = read_progress(out)
        assert (there.state, there.progress) == ("alive", None)


def test_an_endpoints_worker_writes_no_end(tmp_path: Path) -> None:
    """It says nothing of its progress: the endpoint's queue does."""
    out = str(tmp_path / "out")
    sd.screened(out, sd.slides(tmp_path / "slides", 1))
    assert read_progress(out) == []


@pytest.mark.s3
def test_a_killed_driver_is_dead_at_once_on_its_machine(s3: SeaweedServer, tmp_path: Path) -> None:
    """And its heartbeat stays, with what it said last; nobody else is there who would declare it dead."""
    out = f"s3://{s3.bucket}/{tmp_path.name}"
    herd = sd.Herd(
        tmp_path, {"hang_after": 2}, out=out, folder=str(tmp_path), n_slides=6, lease_s=2.0, describe=True
    )  # fmt: skip
    herd.wait_for(lambda: {"hangs": True} in herd.events())
    herd.wait_for(lambda: (p := read_progress(out)[0].progress) is not None and p.open == 4)
    assert read_progress(out)[0].state == "alive"
    os.kill(herd.pids[0], signal.SIGKILL)
    assert herd.codes() == [-signal.SIGKILL]
    (dead,) = read_progress(out)
    assert dead.state == "dead"
    assert dead.progress is not None
    assert (dead.progress.open, dead.progress.slides, dead.progress.slides_now) == (4, 6, 2)


def test_a_store_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(UnreachableError):
        read_progress("s3://nowhere/out")
