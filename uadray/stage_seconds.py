"""How long each part of the work takes, told by whoever does it: `with timed("decode"): ...`.

    with recording() as record:          of this thread
        with timed("plan"): ...          adds to the record; where nothing is recorded it does nothing
            with timed("read"): ...      is not part of the time of what it is in

Threads that fetch ahead are not recorded: of `read` only what the work had to wait for counts. Seconds and counts go to
the driver in the header of a row, see `screening.parts`: the names are those of `metrics.PARTS_OF_WORK`.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class WorkRecord:
    """Seconds by part of the work, and counts by name, since they were taken last."""

    def __init__(self) -> None:
        self._seconds, self._counts = defaultdict[str, float](float), defaultdict[str, float](float)

    def add_seconds(self, name: str, seconds: float) -> None:
        """Add to the seconds of a part of the work."""
        self._seconds[name] += seconds

    def add_count(self, name: str, n: float) -> None:
        """Add to a count."""
        self._counts[name] += n

    def taken(self) -> dict[str, dict[str, float]]:
        """`stages` and `counts`, as the header of a row has them, to the microsecond; then they begin anew."""
        seconds = {name: round(value, 6) for name, value in self._seconds.items()}
        counts = dict(self._counts)
        self._seconds.clear()
        self._counts.clear()
        return {"stages": seconds, "counts": counts}


class _OfThread(threading.local):
    """What is at work in a thread."""

    record: WorkRecord | None = None
    name = ""
    since = 0.0
    is_whole = False


_now = _OfThread()


@contextmanager
def recording() -> Iterator[WorkRecord]:
    """Record what this thread does inside."""
    record = WorkRecord()
    before = _now.record, _now.name, _now.since, _now.is_whole
    _now.record, _now.name, _now.is_whole = record, "", False
    try:
        yield record
    finally:
        _now.record, _now.name, _now.since, _now.is_whole = before


def add_seconds(name: str, seconds: float) -> None:
    """Add seconds that were measured otherwise."""
    if _now.record is not None:
        _now.record.add_seconds(name, seconds)


def tally(name: str, n: float = 1) -> None:
    """Count something of the work: `cache_hit`, `batch_tiles`, ..."""
    if _now.record is not None:
        _now.record.add_count(name, n)


class timed:  # noqa: N801  used as a statement, as those of contextlib
    """Times the block as a part of the work.

    Args:
        name: of the part.
        whole: blocks inside are part of this one.
    """

    __slots__ = ("_is_counted", "_name", "_outer", "_whole")

    def __init__(self, name: str, *, whole: bool = False) -> None:
        self._name, self._whole = name, whole

    def __enter__(self) -> Self:
        """Begin; the block around stops its clock."""
        self._is_counted = _now.record is not None and not _now.is_whole
        if self._is_counted:
            self._outer = _now.name
            _switch(self._name)
            _now.is_whole = self._whole
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; the block around goes on."""
        if self._is_counted:
            _now.is_whole = False
            _switch(self._outer)


def _switch(name: str) -> None:
    """Add what has passed to what was at work until now."""
    now = time.perf_counter()
    if _now.name and _now.record is not None:
        _now.record.add_seconds(_now.name, now - _now.since)
    _now.name, _now.since = name, now
