"""The worker of slide jobs: one slide at a time, from its place in the queue to its decision in the ledger.

    look at the queue --> a place whose slide is free --> read, scored, judged --> committed --> the place is left
      |                     |                               |
      |                     |-- held by another worker      '-- a fault of the system: given back, tried again
      |                     |-- decided already: done           after 5, 10, 20, ... 300 s; the job says why
      |                     '-- cancelled: left
      '-- nothing to do: the screening's files for people are renewed, then a rest

Everything that decides is what `uadray screen` uses: the reader, the judge, the ledger. A worker that is killed leaves
a lease that the others take over; a slide that kills two readers has failed, as it has there.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from uadray import metrics
from uadray.errors import SYSTEM_REASONS, InputError, SlideError, UadrayError, reason_of, shown, shown_text
from uadray.screening import leases
from uadray.screening.assembly import assembled
from uadray.screening.part_counts import count_part
from uadray.screening.slide_outputs import decisions_of
from uadray.screening.slide_result import SlideResult
from uadray.screening.summary import state_of_slide
from uadray.screening.verdicts import verdicts_of
from uadray.serving.jobs.batches import Batches, BatchRecord
from uadray.serving.jobs.open_screenings import OpenScreening, OpenScreenings
from uadray.serving.jobs.queue import Jobs
from uadray.serving.jobs.queue_lengths import QueueLengths
from uadray.serving.jobs.reader_process import CRASHES, ReaderDiedError, ReaderProcess
from uadray.serving.jobs.records import DECISION_FIELDS, JobRecord, Progress, job_of
from uadray.serving.jobs.scoring import ScoreNow, seconds_left
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, Wanted
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.tiles.images import Pixels

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between looks at a queue with nothing to do in it."""

HELD_S = 3.0
"""A slide that another worker is at is not asked for again for so long."""

AGAIN_S, LONGEST_AGAIN_S = 5.0, 300.0
"""After a fault of the system a slide is tried again so many seconds later, then after twice as many, up to the second.
"""

UNKNOWN_S = 60.0
"""A place of the queue without a job is of one that was never accepted, after so long."""

TELL_S = 1.0
"""How often progress is told, and a cancellation noticed."""

PARTS_AT_ONCE = 2
"""Parts of a slide in the stages at the same time: one is scored while the next one travels."""


class _CancelledError(Exception):
    """The job was cancelled while it was at work."""


class _StoppedError(Exception):
    """The worker is to stop."""


class SlideWorker:
    """Works on the jobs of an endpoint's folder until it is stopped.

    Args:
        jobs: the queue.
        score: asks the stages.
        lengths: told what the worker is at; workers of a process share them.
        check: raises `InputError` for a URI that may not be read, or not any more: a link may lead elsewhere by now.
        clock: seconds; for waiting alone.

    Attributes:
        at_work: whether it is on a slide.
    """

    def __init__(
        self, jobs: Jobs, score: ScoreNow, *, lengths: QueueLengths | None = None,
        check: Callable[[str], object] = str, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._jobs, self._batches, self._check, self._clock = jobs, Batches(jobs), check, clock
        self._screenings = OpenScreenings(jobs.out, self._unless_over(score))
        self._is_over = threading.Event()  # what is still being scored is of a job that has ended
        self._reader = ReaderProcess()
        self._lengths = lengths or QueueLengths()
        self._not_before: dict[str, float] = {}  # place -> when it is looked at again
        self._tries: dict[str, int] = {}
        self._n_slides = 0
        self.at_work = False

    @property
    def reader_pid(self) -> int | None:
        """The process that reads slides."""
        return self._reader.pid

    def run(self, stop: threading.Event, *, drain: threading.Event | None = None) -> None:
        """Work until stopped: a slide at work is given back, one that is being committed is committed.

        With `drain` no other slide is begun, and the one at work is finished.
        """
        try:
            while not stop.is_set() and not (drain is not None and drain.is_set()):
                try:
                    is_idle = not self.step(stop)
                except UadrayError as error:  # the store is away, say: nothing is lost meanwhile
                    log.warning("slide jobs: %s; it is tried again", shown_text(str(error)))
                    stop.wait(AGAIN_S)
                    continue
                if is_idle:
                    self._screenings.renew()
                    stop.wait(LOOK_S)
        finally:
            self.close()

    def close(self) -> None:
        """End the reader, and the heartbeats: what was claimed is free from now on."""
        self._reader.close()
        self._screenings.close()

    def step(self, stop: threading.Event) -> bool:
        """Work on the first place of the queue that can be worked on; False where there is none."""
        places = self._jobs.places()
        self._forget(places)
        for place in places:
            if self._not_before.get(place, 0.0) > self._clock():
                continue
            if stop.is_set():
                return False
            self.at_work = True
            try:
                if self._take(place, stop):
                    return True
            except UadrayError:
                raise
            except Exception as error:  # a record that cannot be read, say: it must not keep others from their turn
                log.error("the job %s cannot be worked on: %s", job_of(place), type(error).__name__)
                self._not_before[place] = self._clock() + LONGEST_AGAIN_S
            finally:
                self.at_work = False
        return False

    def _take(self, place: str, stop: threading.Event) -> bool:
        """Work on a place; False where there was nothing to do for us."""
        job_id = job_of(place)
        record = self._jobs.record(job_id)
        if record is not None:
            return self._take_job(_Task(place, record), stop)
        batch = self._batches.record(job_id)
        if batch is not None:
            return self._take_batch(batch, stop)
        if self._not_before.setdefault(place, self._clock() + UNKNOWN_S) <= self._clock():
            self._jobs.leave(place)
        return False

    def _take_batch(self, batch: BatchRecord, stop: threading.Event) -> bool:
        self._batches.expand(batch, lambda: not stop.is_set())
        return True

    def _take_job(self, task: "_Task", stop: threading.Event) -> bool:
        record = task.record
        self._is_over.clear()
        end = self._jobs.end(record.id)
        if end is not None and end.end != "committing":
            self._jobs.leave(task.place)
            return True
        try:
            self._check(record.slide.uri)
            screening = self._screenings.open(record)
        except InputError as error:  # the bundle is gone, or another: no fault of the slide
            self._put_off(task, *reason_of(error))
            return False
        return self._take_slide(task, screening, stop, may_be_done=end is not None)

    def _take_slide(self, task: "_Task", screening: OpenScreening, stop: threading.Event, *, may_be_done: bool) -> bool:
        """Claim the slide and decide it; False where it is another's.

        Args:
            task: the job.
            screening: that it is of.
            stop: ends the work.
            may_be_done: the job was being committed: a decision that is there may be its own.
        """
        row, book = task.row, screening.book
        try:
            replaces = self._replaced(task, screening, may_be_done=may_be_done)
        except UadrayError as error:
            self._put_off(task, *reason_of(error))
            return False
        if replaces is _DECIDED:
            self._finish(task, screening)
            return True
        book.withdrawn.pop(row.slide_id, None)
        if replaces is not None:
            book.withdrawn[row.slide_id] = replaces
        book.begin_round()
        outcome = leases.claim(book.owner, row.slide_id, replaces=replaces)
        if outcome == "decided":
            self._finish(task, screening)
            return True
        if outcome == "held":
            self._not_before[task.place] = self._clock() + HELD_S
            book.look_again([row])  # whoever holds it may have died
            return False
        self._decide(task, screening, stop)
        return True

    def _replaced(self, task: "_Task", screening: OpenScreening, *, may_be_done: bool) -> Any:
        """The etag of a decision that is to be made anew; None where there is none, `_DECIDED` where it stands.

        A decision stands that is about this version of the slide, unless the slide had failed before this job was sent.
        """
        row = task.row
        there = leases.read_with_etag(leases.decision_uri(screening.folder, row.slide_id))
        if there is None:
            return None
        etag, record = there
        try:
            is_current = screening.book.is_about(record, row, slide_etag(row))
        except SlideError:  # its file is gone: the decision stays
            is_current = True
        has_failed = any(decision["state"] == "failed" for decision in decisions_of(record))
        if is_current and has_failed and not may_be_done:
            # looked at after the decision: another worker may have made it for this very job a moment ago
            may_be_done = self._jobs.end(task.record.id) is not None
        return _DECIDED if is_current and (may_be_done or not has_failed) else etag

    def _decide(self, task: "_Task", screening: OpenScreening, stop: threading.Event) -> None:
        """Read, score, judge and commit a slide that is ours."""
        book, slide_id = screening.book, task.row.slide_id
        try:
            result = self._result(task, screening, stop)
        except (_CancelledError, _StoppedError) as interruption:
            leases.release(book.owner, slide_id)
            if isinstance(interruption, _CancelledError):
                self._jobs.leave(task.place)
            return
        except Exception as error:
            self._give_back(task, screening, *_of_the_system(error))
            return
        if result.failure is not None and result.failure[0] in SYSTEM_REASONS:
            self._give_back(task, screening, *result.failure)
            return
        verdicts = verdicts_of(result, book.bundles)
        if not self._jobs.begin_commit(task.record.id):
            leases.release(book.owner, slide_id)
            self._jobs.leave(task.place)
        elif self._commit(screening, result, verdicts):
            named = zip(book.bundles, verdicts, strict=True)
            self._finish(task, screening, [{"bundle": bundle.folder or None} | verdict for bundle, verdict in named])

    def _commit(self, screening: OpenScreening, result: SlideResult, verdicts: list[dict[str, Any]]) -> bool:
        """Write the decision; False where another worker has it."""
        began = time.perf_counter()
        with self._lengths.within("committing"):
            is_ours = screening.book.commit(result, verdicts)
        metrics.count(metrics.STAGE_SECONDS, time.perf_counter() - began, stage="commit")
        if is_ours:
            state = state_of_slide([verdict["state"] for verdict in verdicts])
            reason = next((verdict.get("reason") for verdict in verdicts if verdict["state"] == state), None)
            metrics.count_slide(state, reason)
        return is_ours

    def _result(self, task: "_Task", screening: OpenScreening, stop: threading.Event) -> SlideResult:
        """All parts of a slide, read and scored; one that has killed its reader twice has failed."""
        died = ""
        for _ in range(CRASHES):
            try:
                return self._read_and_scored(task, screening, stop)
            except ReaderDiedError as error:
                died = str(error)
                metrics.count(metrics.RETRIES, cause="crashed")
                log.warning("%s: %s", shown(task.row.slide_id), died)
        return SlideResult(task.row, failure=("crashed", f"it has killed {CRASHES} processes that read it: {died}"))

    def _read_and_scored(self, task: "_Task", screening: OpenScreening, stop: threading.Event) -> SlideResult:
        self._n_slides += 1
        parts: dict[int, dict[str, Any]] = {}
        telling = _Telling(self._jobs, task.record.id, stop, self._is_over, clock=self._clock)
        telling.tell(0, None)
        rows = self._reader.read(self._n_slides, task.row, screening.book.bundles[0].bundle.tiles)
        with (
            self._lengths.within("reading"), closing(rows),
            ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="uadray-parts") as pool,
        ):  # fmt: skip
            for table in _in_order(pool, self._scored_by(screening), rows, telling.check):
                (part,) = table.drop_columns(["pixels"]).to_pylist()
                _count(json.loads(part["header"]))
                if part["part"] >= 0:
                    parts[part["part"]] = part
                result = assembled(task.row, part, parts)
                if result is not None:
                    return result
                telling.tell(*_tiles_so_far(parts))
        raise ReaderDiedError("its reader ended without an answer")

    def _unless_over(self, score: ScoreNow) -> ScoreNow:
        """The same, but of a part whose job has ended meanwhile no more tiles are scored: a search takes minutes."""

        def scored(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
            if self._is_over.is_set():
                raise _StoppedError
            return score(bundle, pixels, wanted)

        return scored

    def _scored_by(self, screening: OpenScreening) -> Callable[[pa.Table], pa.Table]:
        def scored(part: pa.Table) -> pa.Table:
            with self._lengths.within("scoring"):
                return screening.scorer(part)

        return scored

    def _finish(
        self, task: "_Task", screening: OpenScreening, decided: Sequence[dict[str, Any]] | None = None
    ) -> None:  # fmt: skip
        """Note what was decided, and leave the queue; `decided`: where it is not to be read back."""
        if decided is None:
            record = leases.read_with_etag(leases.decision_uri(screening.folder, task.row.slide_id))
            decided = [] if record is None else decisions_of(record[1])
        self._jobs.done(task.record.id, ({name: one.get(name) for name in DECISION_FIELDS} for one in decided))
        self._jobs.leave(task.place)
        self._tries.pop(task.place, None)
        screening.is_stale = True

    def _give_back(self, task: "_Task", screening: OpenScreening, reason: str, message: str) -> None:
        """Leave a slide for later, or for another worker."""
        with suppress(UadrayError):  # else the lease ends with this process
            leases.release(screening.book.owner, task.row.slide_id)
        self._put_off(task, reason, message)

    def _put_off(self, task: "_Task", reason: str, message: str) -> None:
        """Look at a job again later, and say why."""
        tries = self._tries.get(task.place, 0)
        self._tries[task.place] = tries + 1
        wait_s = min(AGAIN_S * 2**tries, LONGEST_AGAIN_S)
        self._not_before[task.place] = self._clock() + wait_s
        metrics.count(metrics.RETRIES, cause=reason)
        why = f"{reason}: {' '.join(message.split())[:300]}"
        log.warning("%s is put off for %.0f s: %s", shown(task.row.slide_id), wait_s, shown_text(why))
        with suppress(UadrayError):
            self._jobs.tell(task.record.id, Progress(why=why, at=self._jobs.clock()))

    def _forget(self, places: list[str]) -> None:
        there = set(places)
        for known in (self._not_before, self._tries):
            for place in known.keys() - there:
                del known[place]


@dataclass(frozen=True)
class _Task:
    """A job and its place in the queue."""

    place: str
    record: JobRecord

    @property
    def row(self) -> SlideRow:
        return self.record.slide.row()


_DECIDED = object()


class _Telling:
    """Tells a job's progress, and notices that it was cancelled or the worker is to stop."""

    def __init__(
        self, jobs: Jobs, job_id: str, stop: threading.Event, is_over: threading.Event, *, clock: Callable[[], float]
    ) -> None:  # fmt: skip
        self._jobs, self._job_id, self._stop, self._is_over, self._clock = jobs, job_id, stop, is_over, clock
        self._began, self._told, self._checked = clock(), -TELL_S, clock()

    def tell(self, done: int, of: int | None) -> None:
        """So many tiles are scored."""
        now = self._clock()
        if now - self._told < TELL_S:
            return
        self._told = now
        left = None if of is None else seconds_left(done, of, now - self._began)
        progress = Progress(tiles=done, of=of, seconds_left=left, at=self._jobs.clock())
        with suppress(UadrayError):  # for people alone
            self._jobs.tell(self._job_id, progress)

    def check(self) -> None:
        """Go on, or not; then `is_over` is set.

        Raises:
            _CancelledError: the job was cancelled.
            _StoppedError: the worker is to stop.
        """
        if self._stop.is_set():
            self._is_over.set()
            raise _StoppedError
        now = self._clock()
        if now - self._checked < TELL_S:
            return
        self._checked = now
        with suppress(UadrayError):  # the store may be away for a moment
            end = self._jobs.end(self._job_id)
            if end is not None and end.end == "cancelled":
                self._is_over.set()
                raise _CancelledError


def _in_order(
    pool: ThreadPoolExecutor, score: Callable[[pa.Table], pa.Table], rows: Iterator[pa.Table], check: Callable[[], None]
) -> Iterator[pa.Table]:
    """The rows scored, some at a time, in their order; `check` is called between them and while one is waited for.

    Time in which nothing is scored counts as waiting for data; time in which no more may be, as waiting for room.
    """
    scoring: list[Future[pa.Table]] = []
    while True:
        is_idle, began = all(future.done() for future in scoring), time.perf_counter()
        row = next(rows, None)
        if is_idle:
            metrics.count(metrics.WAIT_SECONDS, time.perf_counter() - began, on="data")
        if row is None:
            break
        check()
        scoring.append(pool.submit(score, row))
        if len(scoring) >= PARTS_AT_ONCE:
            began = time.perf_counter()
            table = _waited_for(scoring.pop(0), check)
            metrics.count(metrics.WAIT_SECONDS, time.perf_counter() - began, on="room")
            yield table
    for future in scoring:
        yield _waited_for(future, check)
        check()


def _waited_for(row: Future[pa.Table], check: Callable[[], None]) -> pa.Table:
    while not wait([row], timeout=TELL_S).done:
        check()
    return row.result()


def _count(header: dict[str, Any]) -> None:
    """Count a part's reading and scoring as a screening does, without batches: the stages count theirs."""
    counts = {name: n for name, n in header.get("counts", {}).items() if not name.startswith("batch_")}
    count_part(header | {"counts": counts})


def _tiles_so_far(parts: dict[int, dict[str, Any]]) -> tuple[int, int | None]:
    headers = [json.loads(part["header"]) for part in parts.values()]
    of = next((header["n_tiles"] for header in headers if "n_tiles" in header), None)
    return sum(header["tiles"] for header in headers), of


def _of_the_system(error: Exception) -> tuple[str, str]:
    """Reason and message of an error that is not the slide's: those of the slide come as rows."""
    word, message = reason_of(error)
    return word if word in SYSTEM_REASONS else "node", message
