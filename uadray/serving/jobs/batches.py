"""Batches: many slide jobs under one parent. The rows are kept as they were when the batch was sent.

batches/<id>.json    what was asked for (`BatchRecord`), put last: from then on it is there
batches/<id>.rows    JSON lines, a slide each
queue/<place>        until a worker has made a job of every row
ends/<id>.json       `cancelled`, where the batch was
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import Field, StringConstraints

from uadray.screening.leases import REQUESTS
from uadray.serving.jobs.queue import Jobs, read_record
from uadray.serving.jobs.records import (
    ID,
    PRIORITIES,
    End,
    JobBundle,
    JobRecord,
    Record,
    Slide,
    batch_job_id,
    queue_name,
)
from uadray.storage import objects

MAX_SLIDES = 100_000
"""Of a batch. A larger archive is what `uadray screen` is for."""

MAX_ROWS_BYTES = 256 * 2**20

PAGE = 1000
"""Jobs that are made, counted or cancelled before the next look at whether to go on."""


class BatchRecord(Record):
    """What was asked for; it never changes.

    Attributes:
        id: of the batch.
        source: the manifest or prefix, or how many slides were named.
        n_slides: that it has.
        bundles: that decide.
        screening: where the results lie.
        priority: 0 to 9; higher first.
        submitted: seconds since 1970.
        submitted_by: name of the token.
    """

    id: Annotated[str, StringConstraints(pattern=ID)]
    source: str
    n_slides: int
    bundles: tuple[JobBundle, ...]
    screening: str
    priority: int = Field(ge=0, le=PRIORITIES)
    submitted: float
    submitted_by: str


class Batches:
    """The batches in an endpoint's folder."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs, self._out = jobs, jobs.out
        self._ends: dict[str, End] = {}  # of jobs that have ended for good

    def submit(self, record: BatchRecord, slides: Iterable[Slide]) -> None:
        """Put a batch into the queue; again, it changes nothing."""
        rows = "\n".join(slide.model_dump_json() for slide in slides)
        if not objects.put_if_absent(self._uri(record.id, ".rows"), rows.encode()):
            record = self.record(record.id) or record
        if self._jobs.end(record.id) is None:
            objects.put_if_absent(objects.join(self._out, "queue", _place(record)), b"{}")
        objects.put_if_absent(self._uri(record.id), record.model_dump_json().encode())

    def record(self, batch_id: str) -> BatchRecord | None:
        """What was asked for; None where there is no such batch."""
        return read_record(self._uri(batch_id), BatchRecord)

    def slides(self, batch_id: str) -> list[Slide]:
        """Its slides."""
        data = objects.read_bytes(self._uri(batch_id, ".rows"), max_bytes=MAX_ROWS_BYTES)
        return [Slide.model_validate_json(line) for line in data.splitlines()]

    def ids(self, *, after: str = "", limit: int) -> list[str]:
        """Ids of batches, the newest first, beginning behind `after`."""
        after_name = f"{after}.rows" if after else ""
        infos = objects.list_many(objects.join(self._out, "batches"), at_most=2 * limit, after=after_name)
        names = sorted(objects.name(info.uri) for info in infos)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")][:limit]

    def expand(self, record: BatchRecord, go_on: Callable[[], bool]) -> bool:
        """Make a job of every row, each once whoever dies meanwhile; False where it was told to stop before the end."""
        slides = self.slides(record.id)
        with ThreadPoolExecutor(REQUESTS) as pool:
            for start in range(0, len(slides), PAGE):
                if self._jobs.end(record.id) is not None:
                    break
                if not go_on():
                    return False
                page = enumerate(slides[start : start + PAGE], start)
                jobs = [_job(record, number, slide) for number, slide in page]
                list(pool.map(self._jobs.submit, jobs))
        if self._jobs.end(record.id) is not None:
            self.cancel(record.id, by="its batch")  # jobs that were made while it was cancelled
        self._jobs.leave(_place(record))
        return True

    def cancel(self, batch_id: str, *, by: str) -> None:
        """Cancel what of a batch has not been committed, and what of it has not become a job."""
        self._jobs.cancel(batch_id, by=by)
        after = ""
        with ThreadPoolExecutor(REQUESTS) as pool:
            while ids := self._jobs.ids_of_batch(batch_id, after=after, limit=PAGE):
                after = ids[-1]
                open_ids = [job_id for job_id in ids if job_id not in self._ends]
                list(pool.map(lambda job_id: self._jobs.cancel(job_id, by=by), open_ids))

    def counts(self, record: BatchRecord) -> dict[str, int]:
        """How many of its slides are `open`, `done` and `cancelled`; of those that are done, how many by state."""
        counts = Counter[str]()
        for end in self._ended(record.id):
            counts[end.end] += 1
            states = [str(decision.get("state")) for decision in end.decisions]
            counts["failed" if "failed" in states else next(iter(states), "")] += bool(states)
            counts["anomalous"] += any(decision.get("decision") == "anomalous" for decision in end.decisions)
        is_cancelled = self._jobs.end(record.id) is not None
        left = record.n_slides - counts["done"] - counts["cancelled"]
        if is_cancelled:  # rows that never became a job are cancelled with it
            left -= (never := max(0, left - self._jobs_left(record.id)))
            counts["cancelled"] += never
        names = ("done", "cancelled", "scored", "not_assessable", "failed", "anomalous")
        return {"open": max(0, left), **{name: counts[name] for name in names}}

    def _jobs_left(self, batch_id: str) -> int:
        return sum(job_id not in self._ends for job_id in self._all_ids("jobs", batch_id))

    def _ended(self, batch_id: str) -> Sequence[End]:
        """How its jobs have ended, of those that have; each is read once."""
        ids = self._all_ids("ends", batch_id)
        new = [job_id for job_id in ids if job_id not in self._ends]
        with ThreadPoolExecutor(REQUESTS) as pool:
            for job_id, end in zip(new, pool.map(self._jobs.end, new), strict=True):
                if end is not None and end.end != "committing":
                    self._ends[job_id] = end
        return [self._ends[job_id] for job_id in ids if job_id in self._ends]

    def _all_ids(self, folder: str, batch_id: str) -> list[str]:
        """Ids of its jobs that have a record in a folder."""
        infos = objects.list_many(objects.join(self._out, folder), after=f"{batch_id}-", at_most=MAX_SLIDES)
        names = (objects.name(info.uri).removesuffix(".json") for info in infos)
        return [name for name in names if name.startswith(f"{batch_id}-")]

    def _uri(self, batch_id: str, suffix: str = ".json") -> str:
        return objects.join(self._out, "batches", f"{batch_id}{suffix}")


def _place(record: BatchRecord) -> str:
    return queue_name(
        record.id, priority=record.priority, submitted=record.submitted, slides=record.n_slides
    )  # fmt: skip


def _job(record: BatchRecord, number: int, slide: Slide) -> JobRecord:
    """The job of one of its rows."""
    return JobRecord(
        id=batch_job_id(record.id, number), slide=slide, bundles=record.bundles, screening=record.screening,
        priority=record.priority, batch=record.id, submitted=record.submitted, submitted_by=record.submitted_by,
    )  # fmt: skip
