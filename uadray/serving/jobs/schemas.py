"""What slide jobs and batches are asked for with, and how they are answered."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from uadray.serving.config import BundleName
from uadray.serving.jobs.queue import Jobs
from uadray.serving.jobs.records import PRIORITIES, End, JobRecord, Progress, State
from uadray.serving.schemas import Message
from uadray.slides.manifest_checks import why_unusable

Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f\x7f]+$")]

MAX_INLINE = 1000
"""Slides that a batch may name in its request; more come as a manifest or a prefix."""

FRESH_S = 120.0
"""A worker tells its progress every second; one that has told nothing for so long is not at work any more."""


class SlideFields(Message):
    """A slide, with the fields of a manifest.

    Attributes:
        uri: of the slide, in a place that this endpoint may read.
        slide_id: names its results; made of the URI unless given.
        mpp: micrometres per pixel of level 0; overrides what the file says.
        patient_id: slides of one patient are not independent.
        site: where it is from.
        scanner: that made it.
        stain: of the slide.
        label: what is known of it.
    """

    uri: Uri
    slide_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    mpp: float | None = Field(default=None, gt=0, le=100, allow_inf_nan=False)
    patient_id: Text | None = None
    site: Text | None = None
    scanner: Text | None = None
    stain: Text | None = None
    label: Text | None = None

    @model_validator(mode="after")
    def _usable_id(self) -> "SlideFields":
        why = None if self.slide_id is None else why_unusable(self.slide_id)
        if why is not None:
            raise ValueError(f"slide_id cannot be used: it would {why}")
        return self


class _Order(Message):
    """How it is to be done.

    Attributes:
        bundles: names of the bundles that decide; the endpoint's default unless given. Several read the tiles once.
        priority: 0 to 9; higher first.
        idempotency_key: sent again under the same key, it is the same job; the header Idempotency-Key does the same.
    """

    bundles: list[BundleName] | None = Field(default=None, min_length=1, max_length=8)
    priority: int = Field(default=5, ge=0, le=PRIORITIES)
    idempotency_key: Text | None = None


class SlideRequest(SlideFields, _Order):
    """Body of `POST /v1/slides`: a slide that is to be decided."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"uri": "s3://archive/2026/a.svs", "site": "north", "priority": 7}]}
    )


class BatchRequest(_Order):
    """Body of `POST /v1/batches`: one of `manifest`, `prefix` and `slides`.

    Attributes:
        manifest: URI of a CSV or Parquet manifest.
        prefix: folder or s3:// prefix; all slides in it and below.
        slides: the slides themselves.
        split: of the manifest; all slides unless given.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prefix": "s3://archive/2026/"}, {"manifest": "s3://archive/new.csv"}]}
    )

    manifest: Uri | None = None
    prefix: Uri | None = None
    slides: list[SlideFields] | None = Field(default=None, min_length=1, max_length=MAX_INLINE)
    split: Text | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "BatchRequest":
        given = [name for name in ("manifest", "prefix", "slides") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of manifest, prefix and slides, not {' and '.join(given) or 'none'}")
        if self.split is not None and self.manifest is None:
            raise ValueError("split is of a manifest")
        return self


class JobProgress(Message):
    """How far a job is.

    Attributes:
        tiles: that have been scored.
        of: tiles of the slide; null while it is being opened.
        seconds_left: null where nothing is known yet.
    """

    tiles: int
    of: int | None
    seconds_left: float | None


class JobDecision(Message):
    """The main fields of a bundle's decision; the whole of it is at `/decision`."""

    bundle: str | None
    state: str
    reason: str | None
    message: str | None
    decision: str | None
    score: float | None
    p_value: float | None
    threshold: float | None
    note: str | None


class Job(Message):
    """A slide job.

    Attributes:
        id: of the job.
        slide_id: names the slide in results.
        uri: of the slide.
        state: `waiting`, `running`, `done` or `cancelled`. A slide that failed is done: its decision says so.
        why: what keeps it waiting, if that is a fault: it is tried again.
        priority: 0 to 9.
        batch: that it is of.
        bundles: that decide.
        screening: where its results lie.
        submitted: when.
        submitted_by: name of the token.
        progress: null unless it runs.
        decisions: one of each bundle, once it is done.
    """

    id: str
    slide_id: str
    uri: str
    state: State
    why: str | None
    priority: int
    batch: str | None
    bundles: list[str]
    screening: str
    submitted: str
    submitted_by: str
    progress: JobProgress | None
    decisions: list[JobDecision]


class JobPage(Message):
    """Some jobs, the newest first.

    Attributes:
        slides: the jobs.
        next_cursor: for the next page; null on the last.
    """

    slides: list[Job]
    next_cursor: str | None


class Batch(Message):
    """A batch of slide jobs.

    Attributes:
        id: of the batch.
        source: its manifest or prefix, or how many slides were named.
        n_slides: that it has.
        bundles: that decide.
        screening: where its results lie.
        priority: 0 to 9.
        submitted: when.
        submitted_by: name of the token.
        is_cancelled: what had not been committed by then is not done.
        counts: `open`, `done`, `cancelled`, and of those that are done `scored`, `not_assessable`, `failed`,
            `anomalous`; null in lists.
    """

    id: str
    source: str
    n_slides: int
    bundles: list[str]
    screening: str
    priority: int
    submitted: str
    submitted_by: str
    is_cancelled: bool
    counts: dict[str, int] | None


class BatchPage(Message):
    """Some batches, the newest first."""

    batches: list[Batch]
    next_cursor: str | None


def job_of_record(jobs: Jobs, record: JobRecord) -> Job:
    """A job as it is now."""
    end = jobs.end(record.id)
    progress = jobs.progress(record.id) if end is None or end.end == "committing" else None
    state = _state(end, progress, now=jobs.clock())
    return Job(
        id=record.id, slide_id=record.slide.slide_id, uri=record.slide.uri, state=state,
        why=progress.why if state == "waiting" and progress is not None else None, priority=record.priority,
        batch=record.batch, bundles=[bundle.name for bundle in record.bundles], screening=record.screening,
        submitted=shown_time(record.submitted), submitted_by=record.submitted_by,
        progress=_shown(progress) if state == "running" else None,
        decisions=[JobDecision.model_validate(one) for one in (end.decisions if end is not None else ())],
    )  # fmt: skip


def shown_time(seconds: float) -> str:
    """Seconds since 1970 as an ISO time.

    >>> shown_time(0.0)
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _state(end: End | None, progress: Progress | None, *, now: float) -> State:
    if end is not None and end.end != "committing":
        return "done" if end.end == "done" else "cancelled"
    is_told = progress is not None and progress.why is None and now - progress.at < FRESH_S
    return "running" if is_told else "waiting"


def _shown(progress: Progress | None) -> JobProgress | None:
    if progress is None:
        return None
    return JobProgress(tiles=progress.tiles, of=progress.of, seconds_left=progress.seconds_left)
