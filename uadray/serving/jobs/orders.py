"""Requests for slide jobs -> jobs in the queue: bundles by name, URIs that may be read, ids. Blocks."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from pydantic import ValidationError

from uadray.errors import InputError
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.given_slides import given_slides, is_folder
from uadray.serving.access.allowed_uris import ForbiddenUriError, check_slide
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.jobs.batches import MAX_SLIDES, Batches, BatchRecord
from uadray.serving.jobs.folders import claim_screening
from uadray.serving.jobs.queue import ConflictError
from uadray.serving.jobs.records import JobBundle, JobRecord, Slide, new_id
from uadray.serving.jobs.schemas import BatchRequest, SlideFields, SlideRequest
from uadray.serving.services import Services
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects

_ID_CHARACTERS = 150


def order_slide(services: Services, asked: SlideRequest, *, by: str, key: str | None) -> JobRecord:
    """Put a slide into the queue; under a key that was used for it before, that job.

    Raises:
        RefusedError: 403, 404, 409, 422 or 429.
    """
    _check_room(services)
    bundles, screening = _bundles(services, asked.bundles)
    slide = _slide(services, asked)
    job_id = new_id(services.jobs.clock())
    if key is not None:
        job_id = _once(services, key, by=by, asked=asked.model_dump_json(exclude={"idempotency_key"}), new=job_id)
    there = services.jobs.record(job_id)
    if there is not None:
        return there
    if asked.slide_id is not None:
        _reserve(services, screening, slide)
    record = JobRecord(
        id=job_id, slide=slide, bundles=bundles, screening=screening, priority=asked.priority,
        submitted=services.jobs.clock(), submitted_by=by,
    )  # fmt: skip
    services.jobs.submit(record)
    return record


def order_batch(services: Services, asked: BatchRequest, *, by: str, key: str | None) -> BatchRecord:
    """Put a batch into the queue; under a key that was used for it before, that batch.

    Raises:
        RefusedError: 403, 404, 409, 413, 422 or 429.
    """
    _check_room(services)
    bundles, screening = _bundles(services, asked.bundles)
    batches = Batches(services.jobs)
    batch_id = new_id(services.jobs.clock())
    if key is not None:
        batch_id = _once(services, key, by=by, asked=asked.model_dump_json(exclude={"idempotency_key"}), new=batch_id)
    there = batches.record(batch_id)
    if there is not None:
        return there
    slides = _slides(services, asked, screening)
    record = BatchRecord(
        id=batch_id, source=_source(asked), n_slides=len(slides), bundles=bundles, screening=screening,
        priority=asked.priority, submitted=services.jobs.clock(), submitted_by=by,
    )  # fmt: skip
    batches.submit(record, slides)
    return record


def slide_id_of(uri: str) -> str:
    """The id of a slide that is given none: its name, and eight digits of its whole URI.

    >>> slide_id_of("s3://b/a/x y.svs") == slide_id_of("s3://b/a/x y.svs"), slide_id_of("s3://b/a/x y.svs")[:8]
    (True, 'x_y.svs-')
    """
    name = re.sub(r"[^\w.-]+", "_", objects.name(uri.rstrip("/")), flags=re.ASCII).lstrip(".")[:_ID_CHARACTERS]
    return f"{name or 'slide'}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def _check_room(services: Services) -> None:
    waiting, most = services.jobs.waiting(), services.config.max_waiting_slides
    if waiting >= most:
        raise RefusedError(429, f"{waiting} slides wait; {most} at most, send it later", {"Retry-After": "30"})


def _bundles(services: Services, names: Sequence[str] | None) -> tuple[tuple[JobBundle, ...], str]:
    """The bundles of a job, and the name of the screening of their results."""
    found = [services.registry.get(name) for name in (names or [None])]  # type: ignore[list-item]
    chosen = []
    for bundle in found:
        if bundle.calibration is None:
            raise RefusedError(
                422, f"bundle {bundle.name} is not calibrated, so it decides nothing; run `uadray calibrate` on it"
            )
        chosen.append((bundle, bundle.calibration))
    try:
        screening = claim_screening(
            services.config.out,
            [ScreeningBundle(bundle.uri, bundle.description, calibration) for bundle, calibration in chosen],
        )
    except InputError as error:
        if type(error) is not InputError:
            raise  # of the store
        raise RefusedError(422, str(error)) from error
    return (
        tuple(JobBundle(name=b.name, uri=b.uri, id=b.id, calibration_id=c.id) for b, c in chosen),
        screening,
    )


def _slide(services: Services, asked: SlideFields) -> Slide:
    uri = _allowed(services, asked.uri)
    fields = asked.model_dump(include=set(SlideFields.model_fields) - {"uri", "slide_id"})
    return Slide(slide_id=asked.slide_id or slide_id_of(uri), uri=uri, **fields)


def _slides(services: Services, asked: BatchRequest, screening: str) -> list[Slide]:
    """The slides of a batch, each in a place that may be read."""
    if asked.slides is not None:
        slides = [_slide(services, one) for one in asked.slides]
        named = [slide for one, slide in zip(asked.slides, slides, strict=True) if one.slide_id is not None]
    else:
        rows = _rows(services, asked)
        if len(rows) > MAX_SLIDES:
            raise RefusedError(413, f"{len(rows)} slides; {MAX_SLIDES} at most, `uadray screen` takes more")
        slides = [_of_row(row, services, is_named=asked.manifest is not None) for row in rows]
        named = slides if asked.manifest is not None else []
    twice = [slide_id for slide_id, times in Counter(slide.slide_id for slide in slides).items() if times > 1]
    if twice:
        raise RefusedError(422, f"slide_id {twice[0]!r} is there twice")
    for slide in named:
        _reserve(services, screening, slide)
    return slides


def _rows(services: Services, asked: BatchRequest) -> list[SlideRow]:
    """The rows of a manifest, or the slides of a prefix."""
    uri = _allowed(services, asked.manifest or asked.prefix or "")
    try:
        if asked.manifest is not None:
            return read_manifest(uri, split=asked.split)
        if not is_folder(uri):
            raise RefusedError(422, f"{asked.prefix}: not a folder; a slide is sent to /v1/slides, a manifest by name")
        return given_slides(uri)
    except InputError as error:
        if type(error) is not InputError:
            raise
        raise RefusedError(422, str(error)) from error


def _of_row(row: SlideRow, services: Services, *, is_named: bool) -> Slide:
    uri = _allowed(services, row.uri, of=row.slide_id)
    fields = {name: getattr(row, name) for name in Slide.model_fields if name not in ("uri", "slide_id")}
    try:
        return Slide(slide_id=row.slide_id if is_named else slide_id_of(uri), uri=uri, **fields)
    except ValidationError as error:
        raise RefusedError(422, f"slide {row.slide_id}: {error.errors()[0]['msg']}") from error


def _allowed(services: Services, uri: str, *, of: str | None = None) -> str:
    """The URI as it may be read; `of`: the slide of a manifest that it is of."""
    try:
        return check_slide(uri, services.config.slides)
    except ForbiddenUriError as error:
        raise RefusedError(403, f"slide {of}: {error}" if of else str(error)) from error


def _source(asked: BatchRequest) -> str:
    return asked.manifest or asked.prefix or f"{len(asked.slides or ())} slides"


def _reserve(services: Services, screening: str, slide: Slide) -> None:
    try:
        services.jobs.reserve(screening, slide.slide_id, slide.uri)
    except ConflictError as error:
        raise RefusedError(409, str(error)) from error


def _once(services: Services, key: str, *, by: str, asked: str, new: str) -> str:
    try:
        return services.jobs.once(key, by=by, asked=asked, new_id=new)
    except ConflictError as error:
        raise RefusedError(409, str(error)) from error
