"""How long each part of the work takes, told by whoever does it: `with timed("decode"): ...`.

    with recording() as record:          of this thread
        with timed("plan"): ...          adds to the record; where nothing is recorded it does nothing
            with timed("read"): ...      is not part of the time of what it is in

Threads that fetch ahead are not recorded: of `read` only what the work had to wait for counts. Seconds and counts go to
the driver in the header of a row, see `screening.parts`: the names are those of `metrics.PARTS_OF_WORK`.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class WorkRecord:
    """Seconds by part of the work, and counts by name, since they were taken last."""

    __slots__ = ("_counts", "is_whole", "name", "seconds", "since")

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self.name, self.since, self.is_whole = "", 0.0, False  # of the part that is at work now

    def switch(self, name: str) -> None:
        """Add what has passed to the part that was at work, and begin another."""
        now = time.perf_counter()
        if self.name:
            self.seconds[self.name] = self.seconds.get(self.name, 0.0) + now - self.since
        self.name, self.since = name, now

    def count(self, name: str, n: float) -> None:
        """Add to a count."""
        self._counts[name] = self._counts.get(name, 0.0) + n

    def taken(self) -> dict[str, dict[str, float]]:
        """`stages` and `counts`, as the header of a row has them, to the microsecond; then they begin anew."""
        taken = {"stages": {name: round(value, 6) for name, value in self.seconds.items()}, "counts": self._counts}
        self.seconds, self._counts = {}, {}
        return taken


class _OfThread(threading.local):
    """What the work of a thread is recorded in."""

    record: WorkRecord | None = None


_here = _OfThread()


@contextmanager
def recording() -> Iterator[WorkRecord]:
    """Record what this thread does inside."""
    before, _here.record = _here.record, WorkRecord()
    try:
        yield _here.record
    finally:
        _here.record = before


def add_seconds(name: str, seconds: float) -> None:
    """Add seconds that were measured otherwise."""
    record = _here.record
    if record is not None:
        record.seconds[name] = record.seconds.get(name, 0.0) + seconds


def tally(name: str, n: float = 1) -> None:
    """Count something of the work: `cache_hit`, `batch_tiles`, ..."""
    record = _here.record
    if record is not None:
        record.count(name, n)


class timed:  # noqa: N801  used as a statement, as those of contextlib
    """Times the block as a part of the work. A microsecond: there are some for each tile.

    Args:
        name: of the part; empty for none.
        whole: blocks inside are part of this one.
    """

    __slots__ = ("_name", "_outer", "_record", "_whole")

    def __init__(self, name: str, *, whole: bool = False) -> None:
        self._name, self._whole = name, whole

    def __enter__(self) -> None:
        """Begin; the block around stops its clock."""
        self._record = record = _here.record
        if record is not None:
            if record.is_whole:
                self._record = None
                return
            self._outer = record.name
            record.switch(self._name)
            record.is_whole = self._whole

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; the block around goes on."""
        record = self._record
        if record is not None:
            record.is_whole = False
            record.switch(self._outer)
