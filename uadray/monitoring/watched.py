"""Folders that are read again and again, each by a thread of its own: whoever asks is told the last reading at once.

A folder may be an endpoint's: then it holds the screening of its first set of bundles, those of other sets in
`screenings/`, and a queue.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from uadray.decisions.drift import in_words
from uadray.errors import NotFoundError, UadrayError, shown_text
from uadray.monitoring.ledger_metrics import LedgerNumbers, LedgerReader
from uadray.screening.leases import REQUESTS
from uadray.serving.jobs.folders import FOLDER
from uadray.serving.jobs.records import slides_at
from uadray.storage import objects

log = logging.getLogger(__name__)

MAX_SCREENINGS = 20
"""Screenings of one endpoint that are read, in the order of their names."""

READ_SHARE = 0.2
"""Reading takes at most this share of the time: a large folder is read less often."""

STALE_READINGS, STALE_S = 3, 60.0
"""A reading is too old after so many intervals, and not before so many seconds."""


@dataclass(frozen=True)
class Reading:
    """What was read of a folder.

    Attributes:
        at: when, in seconds since 1970.
        seconds: how long it took.
        numbers: of each screening, by its label.
        jobs: slides in an endpoint's queue by `waiting` and `running`; None where there is no queue.
    """

    at: float
    seconds: float
    numbers: dict[str, LedgerNumbers]
    jobs: dict[str, int] | None


@dataclass
class WatchedFolder:
    """One folder.

    Attributes:
        name: its label.
        uri: folder or s3:// URI.
        refresh_s: seconds between readings.
        calibrations: see `LedgerReader`.
        last: the last reading that worked; None where none has.
        problem: why the last one did not work; empty where it did.
    """

    name: str
    uri: str
    refresh_s: float = 30.0
    calibrations: Mapping[str, str] = field(default_factory=dict)
    last: Reading | None = None
    problem: str = "not read yet"
    _readers: dict[str, LedgerReader] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    @property
    def current(self) -> Reading | None:
        """The last reading; None where it failed, or it is too old: whatever was true then may not be any more."""
        last = self.last
        if last is None or self.problem:
            return None
        return last if time.time() - last.at <= max(STALE_S, STALE_READINGS * self.interval_s) else None

    @property
    def interval_s(self) -> float:
        """Seconds from the end of a reading to the next."""
        return max(self.refresh_s, self.last.seconds / READ_SHARE if self.last else 0.0)

    def refresh(self) -> None:
        """Read it now; what prevents it is in `problem`, and in the log when it is new, as is what drifts."""
        began = time.monotonic()
        try:
            numbers, jobs = self._read()
        except Exception as error:  # whatever a folder holds, the others are to be read
            self.problem = shown_text(" ".join(str(error).split())[:500]) or type(error).__name__
            self._say(f"{self.name} cannot be read: {self.problem}", is_fault=not isinstance(error, UadrayError))
            return
        if self.problem and self.last is not None:
            log.info("%s is read again", self.name)
        self.last, self.problem = Reading(time.time(), time.monotonic() - began, numbers, jobs), ""
        findings = dict(_findings(numbers))
        self._said &= findings.keys()
        for key, text in sorted(findings.items()):
            self._say(text, key=key)

    def run(self, stop: threading.Event) -> None:
        """Read it until stopped."""
        while not stop.is_set():
            self.refresh()
            stop.wait(self.interval_s)

    def _read(self) -> tuple[dict[str, LedgerNumbers], dict[str, int] | None]:
        folders = set(objects.list_folders(self.uri))
        queued = _queued(self.uri) if folders & {"queue", "jobs"} else None
        places = {self.name: self.uri}
        if FOLDER in folders:
            others = sorted(objects.list_folders(objects.join(self.uri, FOLDER)))[:MAX_SCREENINGS]
            places |= {f"{self.name}/{other[:8]}": objects.join(self.uri, FOLDER, other) for other in others}
        numbers: dict[str, LedgerNumbers] = {}
        for label, uri in places.items():
            reader = self._readers.setdefault(uri, LedgerReader(uri, self.calibrations))
            try:
                numbers[label] = reader.read()
            except NotFoundError:
                if queued is None and label == self.name:
                    raise  # an endpoint has no screening before its first slide
        running = 0 if queued is None else self._running(list(places.values()))
        return numbers, None if queued is None else {"waiting": max(0, queued - running), "running": running}

    def _running(self, places: list[str]) -> int:
        """Slides that are claimed and not decided."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            claimed = pool.map(lambda uri: objects.list_many(objects.join(uri, "leases"), suffixes=(".json",)), places)
            pairs = zip(places, claimed, strict=True)
            return sum(
                len({objects.name(info.uri).removesuffix(".json") for info in infos} - self._readers[uri].slide_ids)
                for uri, infos in pairs
                if infos
            )

    def _say(self, text: str, *, key: str | None = None, is_fault: bool = False) -> None:
        """Log what has not been said since it was last otherwise; `key` stays the same where the words change."""
        key = text if key is None else key
        if key not in self._said:
            self._said.add(key)
            log.warning("%s", text, exc_info=is_fault)


def _findings(numbers: Mapping[str, LedgerNumbers]) -> Iterator[tuple[str, str]]:
    """What somebody should know of each screening: a key and words."""
    for label, of in numbers.items():
        for each in of.bundles:
            if each.problem:
                text = f"{label}: no drift is told of bundle {each.record.name}: {each.problem}"
                yield text, text
            for group in each.drift:
                if group.detected_at is not None:
                    key = f"{label} {each.record.id} {group.site!r} {group.scanner!r} {group.detected_at}"
                    yield key, f"{label}: drift, bundle {each.record.name}: {in_words(group)}"


def _queued(out: str) -> int:
    """Slides in an endpoint's queue, those at work among them."""
    infos = objects.list_many(objects.join(out, "queue"))
    return sum(slides_at(objects.name(info.uri)) for info in infos)
