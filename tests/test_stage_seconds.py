"""Seconds of parts of the work: each second once, of the thread that is recorded, whatever is inside what."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from uadray.stage_seconds import WorkRecord, add_seconds, recording, tally, timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr("uadray.stage_seconds.time", clock)
    return clock


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds


def test_what_is_inside_is_no_part_of_what_is_around_it(clock: Clock) -> None:
    with recording() as record:
        clock.pass_(1)  # of nothing
        with timed("plan"):
            clock.pass_(2)
            with timed("stage"):
                clock.pass_(4)
                with timed("read"):
                    clock.pass_(8)
            clock.pass_(16)
        with timed("read"):
            clock.pass_(32)
    assert record.taken() == {"stages": {"plan": 18.0, "stage": 4.0, "read": 40.0}, "counts": {}}
    assert record.taken() == {"stages": {}, "counts": {}}


def test_a_whole_part_has_all_that_is_inside(clock: Clock) -> None:
    with recording() as record, timed("plan", whole=True):
        clock.pass_(1)
        with timed("decode"), timed("read"):
            clock.pass_(2)
        with timed("decode"):
            clock.pass_(4)
    with recording() as other, timed("decode"):
        clock.pass_(8)
    assert record.taken()["stages"] == {"plan": 7.0}
    assert other.taken()["stages"] == {"decode": 8.0}


def test_an_error_ends_the_clocks_that_it_leaves(clock: Clock) -> None:
    with recording() as record:
        with suppress(ValueError), timed("decode"), timed("read"):
            clock.pass_(1)
            raise ValueError("damaged")
        clock.pass_(2)  # of nothing
        with timed("quality"):
            clock.pass_(4)
    assert record.taken()["stages"] == {"decode": 0.0, "read": 1.0, "quality": 4.0}


def test_a_reader_that_waits_between_its_rows_counts_none_of_it(clock: Clock) -> None:
    """A reader is a generator: whoever takes its rows works, and times, in between."""

    def rows() -> Iterator[WorkRecord]:
        with recording() as record:
            for _ in range(2):
                with timed("decode"):
                    clock.pass_(1)
                yield record

    reader = rows()
    assert next(reader).taken()["stages"] == {"decode": 1.0}
    clock.pass_(100)
    assert next(reader).taken()["stages"] == {"decode": 1.0}


def test_only_the_thread_that_is_recorded_counts() -> None:
    """Threads that fetch ahead overlap with the work, which has to wait for them at times: that alone is its time."""

    def fetch() -> None:
        with timed("read"):
            time.sleep(0.05)
        tally("cache_hit")
        add_seconds("read", 1)

    with recording() as record:
        ahead = threading.Thread(target=fetch)
        ahead.start()
        with timed("decode"):
            ahead.join()
        tally("cache_miss")
        tally("cache_miss", 2)
    taken = record.taken()
    assert set(taken["stages"]) == {"decode"}
    assert taken["counts"] == {"cache_miss": 3}


def test_without_a_record_nothing_is_kept() -> None:
    with timed("decode"):
        tally("cache_hit")
    with recording() as record:
        pass
    assert record.taken() == {"stages": {}, "counts": {}}
