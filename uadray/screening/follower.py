"""The loop of `uadray screen --follow`: slides of a growing folder are screened as they come, for weeks.

    look      at the folder, every `look_s`: slides that have arrived, complete and in a version not told before
    round     those are screened as those of any screening are, through the same ledger
    renew     the worklist and the summary, every `renew_s`, where anything has happened

    a slide      to do --round--> decided                      told again when its file changes
                   ^    |-> given back: a fault of the system   to do again after 1, 2, 4, ... 60 minutes
                   |    '-> another process is at it            looked at again until it is decided
                   '----------'
    a fault      The store does not answer, credentials have expired, no node can be used: one line, a wait of 15 s,
                 30 s, ... 5 minutes, and on. At the start, and for a lost Ray cluster, a fault ends the command.

Of a slide that is decided two numbers are kept. A process that is started again lists what is there, reads what has
been decided, and goes on. Two processes share a folder as they share any screening: a slide is claimed by one.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from uadray import metrics
from uadray.errors import (
    SYSTEM_REASONS,
    AccessError,
    ClusterLostError,
    InputError,
    NotFoundError,
    UadrayError,
    UnreachableError,
    WorkError,
    reason_of,
    shown_text,
)
from uadray.screening.arrivals import SETTLE_S, Arrival, Arrivals
from uadray.screening.decided_slides import NO_ETAG, decided_before, digest, outdated
from uadray.screening.leases import REQUESTS
from uadray.screening.ledger import Ledger
from uadray.slides.manifest import SlideRow

log = logging.getLogger(__name__)

LOOK_SHARE = 0.1
"""Looks take at most this share of the time, and so do renewals: a larger folder is looked at less often, and the
requests an hour stay what they are."""

FIRST_ROUND, LARGEST_ROUND = 32, 4000
ROUND_S = 600.0
"""A round has so many slides that it takes about this long. Those that come meanwhile are in the next."""

AGAIN_S, LONGEST_AGAIN_S = 60.0, 3600.0
"""A slide at which the system has failed is tried again after so long, then after twice as long, up to the second."""

FAULT_S, LONGEST_FAULT_S = 15.0, 300.0
"""The same for a fault of the system as a whole."""

_PASSING = (AccessError, NotFoundError, UnreachableError)
"""Wrong input at the start, and a fault of the system once the work has begun."""


@dataclass(frozen=True)
class Pace:
    """How often what is done.

    Attributes:
        look_s: seconds between looks.
        settle_s: see `arrivals`.
        renew_s: seconds between renewals of the worklist.
        yield_s: seconds for which a slide is left to the process that is to try it first.
    """

    look_s: float = 10.0
    settle_s: float = SETTLE_S
    renew_s: float = 300.0
    yield_s: float = 30.0


class Stop(Protocol):
    """Ends the work: a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether to end."""
        ...

    def wait(self, timeout: float, /) -> bool:
        """Wait until it is set, for so many seconds at most."""
        ...


class Follower:
    """Follows a folder until it is stopped.

    Args:
        uri: the folder.
        book: the open ledger.
        screen_round: screens the slides of a round, through the ledger.
        stop: ends it.
        pace: how often what is done.
        retry_failed: do slides again that had failed before this process began.
        say: takes what is waited for, in a line.
        clock: seconds.

    Attributes:
        n_slides: that have come so far.
    """

    def __init__(
        self, uri: str, book: Ledger, screen_round: Callable[[Sequence[SlideRow]], None], *, stop: Stop, pace: Pace,
        retry_failed: bool = False, say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._book, self._screen_round, self._stop, self._pace = book, screen_round, stop, pace
        self._say, self._clock = say, clock
        self._known, ids = decided_before(book, retry_failed=retry_failed)
        self._arrivals = Arrivals(uri, settle_s=pace.settle_s, ids=ids, clock=clock)
        self.n_slides = self._n_done = 0
        self._todo: dict[str, Arrival] = {}
        self._unchecked: dict[str, Arrival] = {}  # said to be decided
        self._elsewhere: dict[str, tuple[Arrival, float]] = {}  # others may be at them; with the time to look again
        self._given_back: dict[str, tuple[Arrival, float]] = {}  # with the time to try again
        self._tries: Counter[str] = Counter()
        self._look_at_s = self._again_at_s = clock()
        self._renew_at_s = clock() + pace.renew_s
        self._round_slides, self._fault_s = FIRST_ROUND, 0.0
        self._reported: tuple[int, ...] = ()

    def run(self) -> dict[str, Any]:
        """Follow until stopped; returns the summary, with `growing` (not complete yet) and `left_out` (no slides).

        Raises:
            ClusterLostError: of Ray.
            InputError: the folder, or how the cluster is to be shared, is wrong from the start.
            WorkError: the worklist cannot be written at the end.
        """
        self._look()
        self._book.has_listed = True
        while not self._stop.is_set():
            try:
                self._step()
            except UadrayError as error:
                is_wrong = isinstance(error, InputError) and not isinstance(error, _PASSING)
                if is_wrong or isinstance(error, ClusterLostError):
                    raise
                self._wait_out(error)
        found = {"growing": self._arrivals.growing, "left_out": dict(self._arrivals.left_out.most_common())}
        try:
            return self._book.renew(between_rounds=True, last=True) | found
        except UadrayError as error:
            what = "stopped, but the worklist cannot be written; what is decided stands, the same command goes on"
            raise WorkError(f"{what}: {error}") from error

    def renew_if_due(self, *, between_rounds: bool = False) -> None:
        """Renew the files for people if it is time and anything has happened; what prevents it is for the next time."""
        began, happened = self._clock(), (self.n_slides, self._n_done, len(self._book.open))
        if began < self._renew_at_s:
            return
        if happened != self._reported or not self._book.alone:
            try:
                _log_renewed(self._book.renew(between_rounds=between_rounds))
                self._reported = happened
            except UadrayError as error:
                log.warning("the worklist cannot be renewed: %s", shown_text(str(error)))
        self._renew_at_s = self._clock() + max(self._pace.renew_s, (self._clock() - began) / LOOK_SHARE)

    def _step(self) -> None:
        """A look and a round, where it is time for them; then a rest."""
        if self._clock() >= self._look_at_s:
            self._look()
        self._check()
        self._again()
        if self._todo and not self._stop.is_set():
            self._round()
        self.renew_if_due(between_rounds=True)
        if self._fault_s:
            log.info("the fault is over; slides are screened again")
            self._fault_s = 0.0
        if not self._todo:
            self._rest()

    def _look(self) -> None:
        """Take up what has arrived. What was read at the start to be decided in this version needs nothing more."""
        began = self._clock()
        for arrival in self._arrivals.look():
            slide_id = arrival.row.slide_id
            self.n_slides += not arrival.is_change
            known = self._known.pop(digest(slide_id), None)
            if arrival.is_change or known not in (None, digest(arrival.etag or ""), NO_ETAG):
                self._unchecked[slide_id] = arrival
            elif known is None and self._book.is_first_for(slide_id):
                self._is_to_do(arrival)
            elif known is None:
                self._book.open.add(slide_id)
                self._elsewhere[slide_id] = (arrival, self._clock() + self._pace.yield_s)
            if self._stop.is_set():
                break
        self._look_at_s = self._clock() + max(self._pace.look_s, (self._clock() - began) / LOOK_SHARE)

    def _is_to_do(self, arrival: Arrival) -> None:
        slide_id = arrival.row.slide_id
        self._book.open.add(slide_id)
        self._elsewhere.pop(slide_id, None)
        self._given_back.pop(slide_id, None)
        self._todo[slide_id] = arrival

    def _check(self) -> None:
        """Slides that are said to be decided are to be done where that was about another version of their file."""
        while self._unchecked and not self._stop.is_set():
            batch = list(islice(self._unchecked.values(), REQUESTS))
            with ThreadPoolExecutor(REQUESTS) as pool:
                etags = list(pool.map(lambda arrival: outdated(self._book.out, arrival), batch))
            for arrival, decision_etag in zip(batch, etags, strict=True):
                del self._unchecked[arrival.row.slide_id]
                if decision_etag is not None:
                    if decision_etag:
                        self._book.withdrawn[arrival.row.slide_id] = decision_etag
                    self._is_to_do(arrival)

    def _again(self) -> None:
        """To be done again are slides that were given back, when it is time, and those that others have left."""
        now = self._clock()
        for arrival in [arrival for arrival, due_s in self._given_back.values() if due_s <= now]:
            self._is_to_do(arrival)
        due = {slide_id: arrival for slide_id, (arrival, due_s) in self._elsewhere.items() if due_s <= now}
        if not due or now < self._again_at_s:
            return
        self._again_at_s = now + self._pace.look_s
        left = {row.slide_id for row in self._book.look_again([arrival.row for arrival in due.values()])}
        for slide_id, arrival in due.items():
            if slide_id in left:
                self._is_to_do(arrival)
            elif slide_id not in self._book.open:
                del self._elsewhere[slide_id]
                self._unchecked[slide_id] = arrival

    def _round(self) -> None:
        """Screen what is to be done, in the order in which it came, as much as takes about `ROUND_S`."""
        batch = list(islice(self._todo.values(), self._round_slides))
        for arrival in batch:
            self._elsewhere[arrival.row.slide_id] = (self._todo.pop(arrival.row.slide_id), self._clock())
        if not self._book.alone:  # not in the others' order: they would have claimed each slide just before
            random.shuffle(batch)
        began = self._clock()
        self._book.begin_round()
        try:
            self._screen_round([arrival.row for arrival in batch])
        finally:
            for arrival in batch:
                self._settle(arrival)
        slides_a_second = len(batch) / max(self._clock() - began, 1e-3)
        self._round_slides = min(max(FIRST_ROUND, int(slides_a_second * ROUND_S)), LARGEST_ROUND)

    def _settle(self, arrival: Arrival) -> None:
        """What becomes of a slide after its round; one that is neither decided nor given back stays `elsewhere`."""
        slide_id, book = arrival.row.slide_id, self._book
        if slide_id in book.given_back:
            del book.given_back[slide_id], self._elsewhere[slide_id]
            wait_s = min(AGAIN_S * 2 ** self._tries[slide_id], LONGEST_AGAIN_S)
            self._tries[slide_id] += 1
            self._given_back[slide_id] = (arrival, self._clock() + wait_s)
        elif slide_id not in book.open:
            del self._elsewhere[slide_id]
            self._tries.pop(slide_id, None)
            book.withdrawn.pop(slide_id, None)
            self._n_done += 1
            if slide_id in book.decided_elsewhere:
                book.decided_elsewhere.remove(slide_id)
                self._unchecked[slide_id] = arrival

    def _rest(self) -> None:
        due_s = [self._look_at_s, self._renew_at_s, *(due_s for _, due_s in self._given_back.values())]
        due_s += [max(self._again_at_s, min(due_s for _, due_s in self._elsewhere.values()))] if self._elsewhere else []
        self._say("waiting for slides")
        if not self._unchecked:
            self._stop.wait(max(0.0, min(due_s) - self._clock()))

    def _wait_out(self, error: UadrayError) -> None:
        """Wait after a fault of the system, longer after each that follows; the first is said, and each is counted."""
        if (cause := reason_of(error)[0]) in SYSTEM_REASONS:
            metrics.count(metrics.RETRIES, cause=cause)
        if not self._fault_s:
            log.warning("%s; it is tried again until it works", shown_text(str(error)))
        self._say("waiting for a fault to pass")
        self._fault_s = min(max(FAULT_S, 2 * self._fault_s), LONGEST_FAULT_S)
        self._stop.wait(self._fault_s)


def _log_renewed(counts: dict[str, Any]) -> None:
    names = ("slides", "scored", "not_assessable", "failed", "open")
    log.info("worklist renewed: %s", ", ".join(f"{counts[name]} {name}" for name in names))
