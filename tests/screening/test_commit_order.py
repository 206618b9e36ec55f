"""Two processes at one slide, in every order of their requests: a decision stands beside its own tiles."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import screening_drivers as sd

from uadray.screening import heartbeats, leases
from uadray.screening.ledger import Ledger
from uadray.screening.slide_outputs import parquet
from uadray.slides.manifest import SlideRow
from uadray.storage import objects


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
    book._process._join()
    for row in rows:
        assert leases.claim(book.owner, row.slide_id) == "ours"
    return book


def _commit(book: Ledger, row: SlideRow, score: float) -> Callable[[], bool]:
    result = sd.scored(row, score=score)
    return lambda: book.commit(result, sd.verdicts(result))


@pytest.mark.usefixtures("_steps")
@pytest.mark.parametrize("late", range(8))
def test_whoever_stops_where_decision_and_tiles_agree(late: int, tmp_path: Path) -> None:
    """A stops before its `late`-th request; B takes the slide and stops before any of its own; A goes on; B goes on."""
    for place in range(14):
        out, row = str(tmp_path / f"out{place}"), SlideRow("s", str(tmp_path / "s.tif"))
        first = _paused(out, [row])
        a = Stopped(_commit(first, row, 1.0), late)
        objects.write_bytes(leases.heartbeat_uri(out, first._process.id), heartbeats.dead_marker({}))
        second = sd.book(out, lease_s=0)
        mine = next(second.rounds([row]), None)
        if mine is None or leases.claim(second.owner, "s") == "decided":
            a.go_on()
            assert sd.consistent(out, [row]) == [1.0]
            continue
        b = Stopped(_commit(second, row, 2.0), place)
        committed = [a.go_on(), b.go_on()]
        assert True in committed
        scores = sd.consistent(out, [row])
        assert committed[1 if scores == [2.0] else 0] is True


@pytest.mark.usefixtures("_steps")
def test_a_third_driver_does_not_trust_what_two_have_mixed(tmp_path: Path) -> None:
    """A stops after its tiles; B takes the slide, writes its tiles and dies; A's decision comes; C takes over."""
    out, row = str(tmp_path / "out"), SlideRow("s", str(tmp_path / "s.tif"))
    first = _paused(out, [row])
    a = Stopped(_commit(first, row, 1.0), 3)  # after: is it ours, undecided, tiles; before: decision
    assert objects.exists(f"{out}/tiles/s.parquet")
    objects.write_bytes(leases.heartbeat_uri(out, first._process.id), heartbeats.dead_marker({}))
    second, third = sd.book(out, lease_s=0), sd.book(out)
    assert next(second.rounds([row])) == next(third.rounds([row])) == [row]
    assert leases.claim(second.owner, "s") == "ours"
    assert second._put(f"{out}/tiles/s.parquet", parquet(sd.scored(row, score=2.0).of_bundle().tiles), "s")
    a.go_on()
    with pytest.raises(AssertionError):
        sd.consistent(out, [row])
    assert leases.claim(third.owner, "s") == "ours"
    assert _commit(third, row, 3.0)()
    assert sd.consistent(out, [row]) == [3.0]
