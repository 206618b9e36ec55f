"""Followers of one folder on the real ledger, without Ray: in this process, or as one: `python follow_drivers.py PLAN`.

A plan is JSON with the arguments of `drive`.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import screening_drivers as sd

from uadray.commands.stopping import stopping
from uadray.screening import leases
from uadray.screening.follower import Follower, Pace, Stop
from uadray.screening.ledger import Ledger
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow


class Days:
    """Time that passes where somebody waits, and what happens in it. It is a clock and the event that ends the work.

    Args:
        end_s: when the work is stopped.
        events: by the second at which they happen.
    """

    def __init__(self, end_s: float, events: dict[float, Callable[[], object]] | None = None) -> None:
        self.now, self._end_s = 0.0, end_s
        self._events = sorted((events or {}).items())

    def __call__(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return self.now >= self._end_s

    def wait(self, timeout: float, /) -> bool:
        self.now = min(self.now + timeout, self._end_s)
        while self._events and self._events[0][0] <= self.now:
            self._events.pop(0)[1]()
        return self.is_set()


def round_of(
    book: Ledger, done: list[str], *, fail: Callable[[SlideRow], tuple[str, str] | None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False, work_s: float = 0.0,
) -> Callable[[Sequence[SlideRow]], None]:  # fmt: skip
    """A round that scores without looking at pixels.

    Args:
        book: the ledger.
        done: gets the ids of slides that were committed.
        fail: what a slide fails for, `open` as the reason where it is given back.
        stop: ends a round.
        work_s: seconds a slide.
    """

    def screen(rows: Sequence[SlideRow]) -> None:
        for row in rows:
            if stop():
                return
            outcome = leases.claim(book.owner, row.slide_id, replaces=book.withdrawn.get(row.slide_id))
            if outcome != "ours":
                book.pass_over(row.slide_id, outcome)
                continue
            time.sleep(work_s)
            failure = fail(row)
            if failure is not None and failure[0] == "open":
                book.give_back(row.slide_id, "unreachable", failure[1])
                continue
            etag = slide_etag(row)
            result = sd.scored(row, etag=etag) if failure is None else sd.failed(row, etag=etag, reason=failure[0])
            if book.commit(result, sd.verdicts(result)):
                done.append(row.slide_id)

    return screen


def followed(
    folder: str, out: str, days: Days, *, pace: Pace | None = None, retry_failed: bool = False, **options: Any
) -> tuple[list[str], dict[str, Any]]:
    """Follow in this process until the time is over; returns the ids of slides that were committed, and the summary."""
    done: list[str] = []
    with sd.book(out) as book:
        follower = Follower(
            folder, book, round_of(book, done, **options), stop=days, pace=pace or Pace(settle_s=0), clock=days,
            retry_failed=retry_failed,
        )  # fmt: skip
        return done, follower.run()


def drive(out: str, *, folder: str, log: str, work_s: float, ignores_stop: bool = False) -> None:
    """Follow until a signal comes, as the command does; prints the summary.

    Args:
        out: the screening's folder.
        folder: in which slides arrive.
        log: file for the ids of slides that were committed.
        work_s: seconds a slide.
        ignores_stop: a round does not end before its slides are done.
    """
    done = _Log(Path(log))
    with stopping() as stop, sd.book(out, lease_s=5.0) as book:
        work = round_of(book, done, stop=_never if ignores_stop else stop.is_set, work_s=work_s)
        summary = _follower(folder, book, work, stop).run()
    print(json.dumps(summary), flush=True)


def _follower(folder: str, book: Ledger, work: Callable[[Sequence[SlideRow]], None], stop: Stop) -> Follower:
    return Follower(folder, book, work, stop=stop, pace=Pace(look_s=0.1, settle_s=0.1, renew_s=3.0, yield_s=1.0))


def _never() -> bool:
    return False


class _Log(list[str]):
    """A list that is a file too."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a")

    def append(self, line: str) -> None:
        super().append(line)
        self._file.write(line + "\n")
        self._file.flush()


if __name__ == "__main__":
    drive(**json.loads(sys.argv[1]))
