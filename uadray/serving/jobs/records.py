"""What a slide job is: what was asked for, how far it is, and how it ended. Plain records; nothing here writes.

Ids sort the newest first, so that a listing in the order of names shows what was asked for last. The jobs of a batch
have its id and their number in it.
"""

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from uadray.slides.manifest import SlideRow

State = Literal["waiting", "running", "done", "cancelled"]
"""Of a job. What a slide ended as, failed ones included, stands in its decision: such a job is done."""

PRIORITIES = 9
"""The highest priority; 0 is the lowest."""

ID = r"^[0-9a-f]{19}(-\d{6})?$"
"""What an id looks like, of a job or (without a number) of a batch."""

_LATEST_MS = 0xFFFFFFFFFFF

BATCH_STEP_S = 600.0
"""The k-th slide of a batch ranks as a slide that is sent so many seconds times k later: slides that come meanwhile are
not stuck behind a large batch, and no batch waits for ever."""


class Record(BaseModel):
    """A record in the store; fields that a later version has are ignored."""

    model_config = ConfigDict(frozen=True)


class JobBundle(Record):
    """A bundle as a job means it: by what it was when the job was sent.

    Attributes:
        name: what the endpoint calls it.
        uri: where it lies.
        id: of its weights.
        calibration_id: of its calibration.
    """

    name: str
    uri: str
    id: str
    calibration_id: str


class Slide(Record):
    """The slide of a job; fields as those of a manifest."""

    slide_id: str
    uri: str
    mpp: FiniteFloat | None = None
    patient_id: str | None = None
    site: str | None = None
    scanner: str | None = None
    stain: str | None = None
    split: str | None = None
    label: str | None = None

    def row(self) -> SlideRow:
        """As a line of a manifest."""
        return SlideRow(**self.model_dump())


class JobRecord(Record):
    """What was asked for; it never changes.

    Attributes:
        id: of the job.
        slide: that is to be decided.
        bundles: that decide.
        screening: where its results lie: `main`, or the folder's name below `screenings/`.
        priority: 0 to 9; higher first.
        batch: id of the batch that it is of.
        submitted: seconds since 1970.
        submitted_by: name of the token.
    """

    id: Annotated[str, StringConstraints(pattern=ID)]
    slide: Slide
    bundles: tuple[JobBundle, ...]
    screening: str
    priority: int = Field(ge=0, le=PRIORITIES)
    batch: str | None = None
    submitted: float
    submitted_by: str


class Progress(Record):
    """How far a job is, as its worker last said.

    Attributes:
        tiles: that have been scored.
        of: tiles that the slide has; None while it is being opened.
        seconds_left: None where nothing is known yet.
        why: what keeps it waiting: a fault of the system after which it is tried again.
        at: seconds since 1970.
    """

    tiles: int = 0
    of: int | None = None
    seconds_left: float | None = None
    why: str | None = None
    at: float = 0.0


class End(Record):
    """How a job ends.

    Attributes:
        end: `committing` from the moment from which it cannot be cancelled, then `done`; or `cancelled`.
        by: who cancelled it.
        at: seconds since 1970.
        decisions: of a job that is done, the main fields of each bundle's decision.
    """

    end: Literal["committing", "done", "cancelled"]
    by: str | None = None
    at: float
    decisions: tuple[dict[str, Any], ...] = ()


DECISION_FIELDS = ("bundle", "state", "reason", "message", "decision", "score", "p_value", "threshold", "note")
"""Of a decision, what a job's status repeats."""


def new_id(now_s: float | None = None) -> str:
    """An id for a job or a batch: the later, the further in front.

    >>> new_id(2.0) < new_id(1.0), len(new_id())
    (True, 19)
    """
    ms = int((time.time() if now_s is None else now_s) * 1000)
    return f"{_LATEST_MS - ms:011x}{secrets.token_hex(4)}"


def batch_job_id(batch_id: str, number: int) -> str:
    """The id of a batch's job."""
    return f"{batch_id}-{number:06d}"


def queue_name(job_id: str, *, priority: int, submitted: float, number: int = 0, slides: int = 1) -> str:
    """The name of a job's place in the queue: names sort as their jobs are to be done.

    Args:
        job_id: of the job, or of a batch that is still to become jobs.
        priority: 0 to 9.
        submitted: seconds since 1970.
        number: of the job in its batch.
        slides: how many the place stands for.

    >>> a = queue_name("a", priority=5, submitted=1000.0)
    >>> later, urgent = queue_name("b", priority=5, submitted=1001.0), queue_name("c", priority=9, submitted=2000.0)
    >>> second = queue_name("d", priority=5, submitted=1000.0, number=1)
    >>> sorted([second, later, a, urgent]) == [urgent, a, later, second]
    True
    """
    rank_ms = int((submitted + number * BATCH_STEP_S) * 1000)
    return f"{PRIORITIES - priority}-{rank_ms:015d}-{job_id}" + (f"~{slides}" if slides != 1 else "")


def job_of(place: str) -> str:
    """The id in the name of a place in the queue."""
    return place.split("-", 2)[2].partition("~")[0]


def slides_at(place: str) -> int:
    """How many slides a place in the queue stands for.

    >>> slides_at(queue_name("a", priority=5, submitted=1000.0, slides=40)), slides_at("4-000000001000000-a")
    (40, 1)
    """
    return int(place.partition("~")[2] or 1)
