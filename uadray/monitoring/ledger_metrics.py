"""A screening's ledger -> plain numbers, again and again, in few requests and bounded memory.

Nothing of Ray is asked: what is told holds while a screening runs, after its cluster has gone, and of screenings of
older versions, as far as these have written it down. A reading lists the decisions (a request a thousand) and reads
what is new since the last one. Names of sites, scanners, bundles and reasons come from outside: they are cut, and of
each kind only so many are told apart.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from uadray.decisions.conformal import Calibration
from uadray.decisions.drift import GroupDrift, drift
from uadray.decisions.validity import GroupValidity, judged_slides, most_common, validity
from uadray.decisions.verdict import STATES
from uadray.detectors.description import described_bundle
from uadray.errors import UadrayError, shown_text
from uadray.screening import kept_calibrations
from uadray.screening.bundle_calibrations import is_kept, kept_calibration
from uadray.screening.bundles import read_calibration
from uadray.screening.decision_segments import read_decisions
from uadray.screening.progress_record import DriverProgress, read_progress
from uadray.screening.run_record import RecordedBundle, RunRecord, read_run_record

WINDOW_S = 300.0
"""The rate of decisions is that of so many seconds."""

DECISIONS = ("normal", "anomalous", "not_assessable")

MAX_REASONS = 30
"""Reasons that are told apart in a state."""

DRIFT_SHARE = 0.1
"""Looking for drift takes at most this share of the time: of 100,000 slides it takes 7 s."""

_UNUSED = ("uri", "message", "etag", "fingerprint", "flags", "evidence", "mask", "pictures")
"""Columns that are not read: with them 100,000 slides would take three times the memory."""


@dataclass(frozen=True)
class BundleNumbers:
    """What one bundle says of the slides.

    Attributes:
        record: which bundle.
        slides: by state and reason, the latter empty of scored slides.
        decisions: by decision.
        alpha: the stated false-alarm rate; None where nothing is decided and the calibration cannot be had.
        groups: the p-values by site and scanner.
        drift: the slides against the calibration's, by site and scanner; empty where the calibration cannot be had.
        calibration: None where it cannot be had.
        problem: why not.
    """

    record: RecordedBundle
    slides: dict[tuple[str, str], int]
    decisions: dict[str, int]
    alpha: float | None
    groups: tuple[GroupValidity, ...]
    drift: tuple[GroupDrift, ...]
    calibration: Calibration | None
    problem: str


@dataclass(frozen=True)
class LedgerNumbers:
    """What a screening's folder says.

    Attributes:
        run: whose screening it is.
        at: when it was read.
        bundles: in their order.
        decided: slides.
        per_second: decisions a second in the last `WINDOW_S`.
        total: slides of the run; None where no driver has said.
        backlog: slides that are not decided; None where no driver has said.
        oldest_open: since when the first of these is known; None where none is, or no driver has said.
        drivers: that live, were killed, or ended last.
        stages: seconds of each part of the work, of all these drivers.
        read_seconds: of all slides that tell.
        score_seconds: likewise.
        timed: how many tell.
    """

    run: RunRecord
    at: datetime
    bundles: tuple[BundleNumbers, ...]
    decided: int
    per_second: float
    total: int | None
    backlog: int | None
    oldest_open: datetime | None
    drivers: tuple[DriverProgress, ...]
    stages: dict[str, float]
    read_seconds: float
    score_seconds: float
    timed: int

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the present rate; None where nothing moves, or it is not known what is left."""
        if not self.backlog:
            return None if self.backlog is None else 0.0
        return self.backlog / self.per_second if self.per_second else None

    def lag_s(self, now: datetime) -> float | None:
        """For how long the driver that was silent longest has said nothing, of those that live or were killed."""
        said = [each.progress.at for each in self.drivers if each.state != "ended" and each.progress is not None]
        return max(0.0, (now - min(said)).total_seconds()) if said else None


@dataclass
class _Known:
    """What is kept of a bundle between readings."""

    calibration: Calibration | None = None
    problem: str = ""
    drift: tuple[GroupDrift, ...] = ()
    drift_is_of: int = -1  # reading
    next_drift_s: float = 0.0


@dataclass
class LedgerReader:
    """Reads one screening's folder again and again.

    Attributes:
        out: the folder.
        calibrations: id or name of a bundle -> its URI, where `run.json` does not say, or an old place.
        slide_ids: of the decided slides, as last read.
    """

    out: str
    calibrations: Mapping[str, str] = field(default_factory=dict)
    _table: pa.Table | None = None
    _reading: int = 0
    _known: dict[str, _Known] = field(default_factory=dict)
    _counted: dict[str, BundleNumbers] = field(default_factory=dict)

    @property
    def slide_ids(self) -> set[str]:
        """Of the decided slides, as last read."""
        return set() if self._table is None else set(self._table["slide_id"].to_pylist())

    def read(self, *, now: datetime | None = None) -> LedgerNumbers:
        """Read what is new; `now` is for tests.

        Raises:
            UadrayError: there is no screening, or the store cannot be read.
        """
        run = read_run_record(self.out)
        drivers = tuple(read_progress(self.out, now=now))  # before the decisions: what is decided later is not open
        table = self._decisions()
        at = now or datetime.now(UTC)
        slides = _of_bundle(table, run.bundles[0])
        decided_s = _seconds(slides["decided_at"])
        total, backlog, oldest = _backlog(drivers, decided_s)
        return LedgerNumbers(
            run, at, tuple(self._bundle(each, table) for each in run.bundles), len(slides),
            _per_second(decided_s, drivers, at), total, backlog, oldest, drivers, _stages(drivers),
            *_work_seconds(slides),
        )  # fmt: skip

    def _decisions(self) -> pa.Table:
        """All decisions; the number of the reading changes where anything is new."""
        before = self._table
        decided = read_decisions(self.out, known=before, leave_out=_UNUSED)
        is_same = before is not None and not decided.unsegmented and len(before) == len(decided.table)
        if not is_same or before is None:
            self._table = decided.table.combine_chunks()
            self._reading += 1
        pa.default_memory_pool().release_unused()  # else half a gigabyte is kept of 100,000 slides
        return self._table

    def _bundle(self, record: RecordedBundle, table: pa.Table) -> BundleNumbers:
        known = self._known.setdefault(record.folder, _Known())
        had = known.calibration is not None and known.calibration.id == record.calibration_id
        if not had:
            known.calibration, known.problem = self._calibration(record)
        rows = _of_bundle(table, record)
        is_due = known.drift_is_of != self._reading and time.monotonic() >= known.next_drift_s
        if known.calibration is not None and (is_due or not had):
            began = time.monotonic()
            known.drift, known.drift_is_of = tuple(drift(rows, known.calibration)), self._reading
            known.next_drift_s = time.monotonic() + (time.monotonic() - began) / DRIFT_SHARE
        return _bundle_numbers(record, rows, known)

    def _calibration(self, record: RecordedBundle) -> tuple[Calibration | None, str]:
        """The calibration that the decisions were made with; or None, and why."""
        uri = self.calibrations.get(record.id) or self.calibrations.get(record.name) or record.uri
        if not uri:
            return None, "the record of this screening does not say where its bundle lies; name it in `calibrations`"
        try:
            calibration = read_calibration(uri, described_bundle(uri))
            if calibration.id != record.calibration_id and is_kept(uri, record.calibration_id):
                calibration = kept_calibration(uri, record.calibration_id)
            elif calibration.id != record.calibration_id and kept_calibrations.is_kept(self.out, record.calibration_id):
                calibration = kept_calibrations.read_kept(self.out, record.calibration_id)
        except UadrayError as error:
            return None, shown_text(str(error))
        if calibration.id != record.calibration_id:
            return None, f"{uri} has been calibrated anew ({calibration.id}); this screening is of an older calibration"
        return calibration, ""


def _bundle_numbers(record: RecordedBundle, rows: pa.Table, known: _Known) -> BundleNumbers:
    alphas = rows["alpha"].filter(pc.and_(pc.greater(rows["alpha"], 0.0), pc.less(rows["alpha"], 1.0)))
    alpha = known.calibration.alpha if known.calibration else (alphas[-1].as_py() if len(alphas) else None)
    n_calibration = len(known.calibration.scores) if known.calibration else None
    groups = validity(judged_slides(rows), alpha=alpha, n_calibration=n_calibration) if alpha else []
    return BundleNumbers(
        record, _slides(rows), _counts(rows["decision"]), alpha, tuple(groups), known.drift, known.calibration,
        known.problem,
    )  # fmt: skip


def _slides(rows: pa.Table) -> dict[tuple[str, str], int]:
    """How many slides by state and reason; of each state so many reasons as are told apart."""
    by_state: dict[str, Counter[str]] = {state: Counter({"": 0}) for state in STATES}
    counted = rows.group_by(["state", "reason"]).aggregate([([], "count_all")])
    for state, reason, n in zip(*(counted[name].to_pylist() for name in ("state", "reason", "count_all")), strict=True):
        by_state.setdefault(state if state in STATES else "other", Counter())[reason or ""] += n
    return {
        (state, reason): n
        for state, reasons in by_state.items()
        for reason, n in most_common(reasons, MAX_REASONS).items()
    }


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = Counter({each["values"]: each["counts"] for each in pc.value_counts(column.drop_null()).to_pylist()})
    return dict.fromkeys(DECISIONS, 0) | most_common(counts, MAX_REASONS)


def _of_bundle(table: pa.Table, record: RecordedBundle) -> pa.Table:
    bundle = table["bundle"]
    if bundle.null_count == len(bundle) and not record.folder:
        return table
    return table.filter(pc.equal(bundle, record.folder) if record.folder else pc.is_null(bundle))


def _seconds(times: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Texts as seconds since 1970, NaN where there is none, or none that is a time."""
    try:
        stamps = pc.cast(times, pa.timestamp("ms", "UTC"))
    except pa.ArrowInvalid:
        return np.array([_second(text) for text in times.to_pylist()], np.float64)
    seconds = pc.divide(pc.cast(pc.cast(stamps, pa.int64()), pa.float64()), 1000.0)
    return np.asarray(seconds.to_numpy(zero_copy_only=False), np.float64) if len(seconds) else np.zeros(0)


def _second(text: str | None) -> float:
    try:
        time_of = datetime.fromisoformat(text or "")
    except ValueError:
        return np.nan
    return time_of.timestamp() if time_of.tzinfo else np.nan


def _per_second(decided_s: npt.NDArray[np.float64], drivers: tuple[DriverProgress, ...], at: datetime) -> float:
    """Decisions a second in the last `WINDOW_S`, or since the first driver that lives began."""
    began = [each.progress.started for each in drivers if each.state == "alive" and each.progress]
    since = max([at - timedelta(seconds=WINDOW_S), *([min(began)] if began else [])])
    window_s = max(1.0, (at - since).total_seconds())
    return float((decided_s > at.timestamp() - window_s).sum()) / window_s


def _backlog(
    drivers: tuple[DriverProgress, ...], decided_s: npt.NDArray[np.float64]
) -> tuple[int | None, int | None, datetime | None]:
    """Slides of the run, those that are open, and since when the first is; said by living drivers, or the last one."""
    spoken = [each for each in drivers if each.progress is not None and each.progress.open is not None]
    living = [each for each in spoken if each.state == "alive"]
    said = [each.progress for each in living or spoken if each.progress is not None]
    if not said:
        return None, None, None
    if not living:
        said = [max(said, key=lambda progress: progress.at)]
    backlogs = [max(0, (each.open or 0) - int((decided_s > each.at.timestamp()).sum())) for each in said]
    largest = int(np.argmax(backlogs))
    waiting = [each.oldest_open for each in said if each.oldest_open is not None]
    return said[largest].slides, backlogs[largest], min(waiting, default=None) if backlogs[largest] else None


def _stages(drivers: tuple[DriverProgress, ...]) -> dict[str, float]:
    sums = Counter[str]()
    for each in drivers:
        for stage, seconds in (each.progress.stages if each.progress else {}).items():
            sums[stage[:40]] += seconds  # type: ignore[assignment]
    return {stage: float(seconds) for stage, seconds in sums.most_common(MAX_REASONS)}


def _work_seconds(slides: pa.Table) -> tuple[float, float, int]:
    """Seconds of reading and of scoring, and how many slides tell of them."""
    read, score = (slides[name].to_numpy(zero_copy_only=False) for name in ("read_seconds", "score_seconds"))
    read, score = (each[np.isfinite(each) & (each >= 0)] for each in (read, score))
    return float(read.sum()), float(score.sum()), len(read)
