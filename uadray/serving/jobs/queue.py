"""The slide jobs of an endpoint: a queue in its folder. Whoever dies, no job is lost and none is done twice.

    jobs/<id>.json      what was asked for (`JobRecord`), put once
    queue/<place>       the job's place in the queue, see `queue_name`; deleted last of all
    progress/<id>.json  how far it is, for people; overwritten every second or so
    ends/<id>.json      how it ends (`End`), put once, then replaced by whoever put it or took it over
    keys/<hash>.json    an idempotency key, or the slide that an id stands for

    sent: key put -> place put -> job put                       the answer 202
                                  |
    a worker: place listed -> slide claimed (its lease in the screening) -> read, scored
                                  |                                           |
              DELETE: ends put: "cancelled"        or, if it is there first, ends put: "committing"
                                  |                                           |
                              place deleted                 decision put -> ends: "done" -> place deleted

Of `cancelled` and `committing` the one that is put first holds: no decision is written of a job that was cancelled. A
worker that dies leaves the place; the next one finds the lease free, and goes on from `committing`, or finds the
decision there. What is sent twice under one idempotency key is one job.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel

from uadray.errors import InputError, NotFoundError
from uadray.screening.leases import REQUESTS, read_with_etag
from uadray.serving.jobs.records import End, JobRecord, Progress, queue_name, slides_at
from uadray.storage import objects

RecordT = TypeVar("RecordT", bound=BaseModel)

LOOK = 1000
"""Places that one look at the queue sees: one request. There are fewer slides at work at the same time."""

COUNT_S = 2.0
"""How long a count of the queue is good for."""

MAX_RECORD_BYTES = 2**20


class ConflictError(InputError):
    """The same key or slide id was used for something else before."""


class Jobs:
    """The jobs in an endpoint's folder.

    Args:
        out: the folder.
        clock: seconds since 1970.
    """

    def __init__(self, out: str, *, clock: Callable[[], float] = time.time) -> None:
        self.out, self.clock = out, clock
        self._counted: tuple[float, int] = (0.0, 0)

    def submit(self, record: JobRecord) -> None:
        """Put a job into the queue; again, it changes nothing.

        Its place comes first: a job that is there is in the queue. A place without a job is of one never accepted.
        """
        place = place_of(record)
        objects.put_if_absent(objects.join(self.out, "queue", place), b"{}")
        if objects.put_if_absent(self._uri("jobs", record.id), record.model_dump_json().encode()):
            return
        there, end = self.record(record.id) or record, self.end(record.id)
        is_over = end is not None and end.end != "committing"
        if is_over or place_of(there) != place:
            self.leave(place)
        if not is_over:
            objects.put_if_absent(objects.join(self.out, "queue", place_of(there)), b"{}")

    def once(self, key: str, *, by: str, asked: str, new_id: str) -> str:
        """The id that belongs to an idempotency key of a caller: `new_id` the first time, later that of the first time.

        Raises:
            ConflictError: something else was asked for under this key.
        """
        there = self._keep(f"{by}\0{key}", {"id": new_id, "asked": _digest(asked)})
        if there["asked"] != _digest(asked):
            raise ConflictError(f"the idempotency key {key!r} was used for another request; take a new one")
        return there["id"]

    def reserve(self, screening: str, slide_id: str, uri: str) -> None:
        """Note which slide an id stands for.

        Raises:
            ConflictError: another one.
        """
        if self._keep(f"slide\0{screening}\0{slide_id}", {"uri": uri})["uri"] != uri:
            raise ConflictError(f"slide_id {slide_id!r} stands for another URI here; take another id, or leave it out")

    def record(self, job_id: str) -> JobRecord | None:
        """What was asked for; None where there is no such job."""
        return read_record(self._uri("jobs", job_id), JobRecord)

    def end(self, job_id: str) -> End | None:
        """How it ends; None while it may still be cancelled."""
        return read_record(self._uri("ends", job_id), End)

    def progress(self, job_id: str) -> Progress | None:
        """How far it is."""
        return read_record(self._uri("progress", job_id), Progress)

    def tell(self, job_id: str, progress: Progress) -> None:
        """Say how far it is."""
        objects.write_bytes(self._uri("progress", job_id), progress.model_dump_json().encode())

    def cancel(self, job_id: str, *, by: str) -> End:
        """Cancel a job unless it is being committed; returns how it ends."""
        end = End(end="cancelled", by=by, at=self.clock())
        if objects.put_if_absent(self._uri("ends", job_id), end.model_dump_json().encode()):
            record = self.record(job_id)
            if record is not None:
                self.leave(place_of(record))
            return end
        return self.end(job_id) or end

    def begin_commit(self, job_id: str) -> bool:
        """From now on the job cannot be cancelled; False where it has been."""
        end = End(end="committing", at=self.clock())
        if objects.put_if_absent(self._uri("ends", job_id), end.model_dump_json().encode()):
            return True
        there = self.end(job_id)
        return there is not None and there.end != "cancelled"

    def done(self, job_id: str, decisions: Iterable[dict[str, object]]) -> None:
        """Note that a job's slide is decided."""
        end = End(end="done", at=self.clock(), decisions=tuple(decisions))
        objects.write_bytes(self._uri("ends", job_id), end.model_dump_json().encode())

    def leave(self, place: str) -> None:
        """Take a job out of the queue."""
        objects.delete(objects.join(self.out, "queue", place))

    def places(self) -> list[str]:
        """The first places of the queue in its order, those of jobs at work among them."""
        infos = objects.list_many(objects.join(self.out, "queue"), at_most=LOOK)
        return sorted(objects.name(info.uri) for info in infos)

    def waiting(self) -> int:
        """How many slides are in the queue, those at work among them, as of `COUNT_S` ago at most."""
        if time.monotonic() - self._counted[0] > COUNT_S or not self._counted[0]:
            self.recount()
        return self._counted[1]

    def recount(self) -> None:
        """Count the queue now."""
        infos = objects.list_many(objects.join(self.out, "queue"))
        self._counted = (time.monotonic(), sum(slides_at(objects.name(info.uri)) for info in infos))

    def ids(self, *, after: str = "", limit: int) -> list[str]:
        """Ids of jobs, the newest first, beginning behind `after`."""
        infos = objects.list_many(
            objects.join(self.out, "jobs"), suffixes=(".json",), at_most=limit, after=f"{after}.json" if after else ""
        )
        return sorted(objects.name(info.uri).removesuffix(".json") for info in infos)

    def ids_of_batch(self, batch_id: str, *, after: str = "", limit: int) -> list[str]:
        """Ids of a batch's jobs in the order of its slides, beginning behind `after`."""
        ids = self.ids(after=after or f"{batch_id}-", limit=limit)
        return [job_id for job_id in ids if job_id.startswith(f"{batch_id}-")]

    def records(self, job_ids: Sequence[str]) -> Iterator[JobRecord]:
        """The records of these jobs, in their order."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from (record for record in pool.map(self.record, job_ids) if record is not None)

    def _keep(self, key: str, content: dict[str, str]) -> dict[str, str]:
        """Put a record under the hash of a key, unless there is one; returns what is there."""
        uri = self._uri("keys", _digest(key))
        if objects.put_if_absent(uri, json.dumps(content).encode()):
            return content
        there = read_with_etag(uri)
        return content if there is None else there[1]

    def _uri(self, folder: str, name: str) -> str:
        return objects.join(self.out, folder, f"{name}.json")


def place_of(record: JobRecord) -> str:
    """The name of a job's place in the queue."""
    number = int(record.id.partition("-")[2] or 0)
    return queue_name(record.id, priority=record.priority, submitted=record.submitted, number=number)


def read_record(uri: str, model: type[RecordT]) -> RecordT | None:
    """A record in the store; None where there is none."""
    try:
        return model.model_validate_json(objects.read_bytes(uri, max_bytes=MAX_RECORD_BYTES))
    except NotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
