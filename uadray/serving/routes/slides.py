"""`/v1/slides`: a slide is sent, and its decision fetched. A job never lives inside a request."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from uadray.serving.access.audit import add_subject
from uadray.serving.access.callers import Caller
from uadray.serving.exchange.openapi import problems
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.jobs.orders import order_slide
from uadray.serving.jobs.records import ID, JobRecord
from uadray.serving.jobs.results import MAX_PAGE, decision_record, result_bytes, tile_page
from uadray.serving.jobs.schemas import Job, JobPage, SlideRequest, job_of_record
from uadray.serving.services import Services
from uadray.serving.views.slide_pictures import picture_in

EVENTS_S = 1.0
"""Seconds between looks at a job whose events are followed."""

KEEP_ALIVE_S = 15.0

_PARQUET = "application/vnd.apache.parquet"

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
JobId = Annotated[str, Path(pattern=ID, description="Of the job.", examples=["66ec3a10b3c00a1b2c3"])]
Cursor = Annotated[str | None, Query(pattern=ID)]
Limit = Annotated[int, Query(ge=1, le=200)]
State = Literal["waiting", "running", "done", "cancelled"]

MOST_LOOKED_AT = 1000
"""Jobs that a page of one state looks at."""


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/slides", tags=["slides"])
    read, submit = services.access.requires("read"), services.access.requires("submit")

    def found(job_id: str) -> JobRecord:
        record = services.jobs.record(job_id)
        if record is None:
            raise RefusedError(404, "no such job")
        return record

    @routes.post(
        "", status_code=202, response_model=Job, operation_id="submitSlide", responses=problems(401, 403, 409, 422, 429)
    )
    async def submit_slide(
        asked: SlideRequest,
        request: Request,
        response: Response,
        caller: Annotated[Caller, Depends(submit)],
        key: Key = None,
    ) -> Job:
        """Send a slide. It waits its turn; the answer says where to ask how far it is."""
        job = await asyncio.to_thread(_submitted, services, asked, caller.name, asked.idempotency_key or key)
        add_subject(request.scope, slide=job.slide_id, job_id=job.id)
        response.headers["Location"] = f"/v1/slides/{job.id}"
        return job

    @routes.get(
        "",
        response_model=JobPage,
        dependencies=[Depends(read)],
        operation_id="listSlides",
        responses=problems(401, 403),
    )
    async def list_slides(
        batch: Cursor = None, state: State | None = None, limit: Limit = 50, cursor: Cursor = None
    ) -> JobPage:
        """Jobs, the newest first; those of a batch in the order of its slides."""
        return await asyncio.to_thread(_page, services, batch, state, limit, cursor)

    @routes.get(
        "/{job_id}",
        response_model=Job,
        dependencies=[Depends(read)],
        operation_id="slideStatus",
        responses=problems(401, 403, 404),
    )
    async def status(job_id: JobId) -> Job:
        """How far a job is."""
        return await asyncio.to_thread(lambda: job_of_record(services.jobs, found(job_id)))

    @routes.get(
        "/{job_id}/events",
        dependencies=[Depends(read)],
        response_class=StreamingResponse,
        operation_id="slideEvents",
        responses=problems(401, 403, 404),
    )
    async def events(job_id: JobId, request: Request) -> StreamingResponse:
        """How far a job is, as server-sent events `progress`; the last one when it is done or cancelled."""
        record = await asyncio.to_thread(found, job_id)
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        return StreamingResponse(_events(services, record, request), media_type="text/event-stream", headers=headers)

    @routes.delete("/{job_id}", response_model=Job, operation_id="cancelSlide", responses=problems(401, 403, 404, 409))
    async def cancel(job_id: JobId, caller: Annotated[Caller, Depends(submit)]) -> Job:
        """Cancel a job that is not being committed; one that is, or that is done, stays as it is (409)."""
        return await asyncio.to_thread(_cancelled, services, found, job_id, caller.name)

    @routes.get(
        "/{job_id}/decision",
        dependencies=[Depends(read)],
        operation_id="slideDecision",
        responses=problems(401, 403, 404, 409),
    )
    async def decision(job_id: JobId) -> dict[str, Any]:
        """The record of the decision, as a screening writes it."""
        return await asyncio.to_thread(lambda: decision_record(services, found(job_id)))

    @routes.get(
        "/{job_id}/tiles",
        dependencies=[Depends(read)],
        response_class=Response,
        operation_id="slideTiles",
        responses=problems(401, 403, 404, 409),
    )
    async def tiles(
        job_id: JobId, request: Request, bundle: str | None = None, format: Literal["parquet", "json"] | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1000, cursor: Annotated[int, Query(ge=0, le=2**40)] = 0,
    ) -> Response:  # fmt: skip
        """The tile scores: the whole as Parquet, or by page as JSON."""
        data = await asyncio.to_thread(_result, services, found, job_id, "tiles/{}.parquet", bundle)
        wants_json = format == "json" or (format is None and "json" in request.headers.get("accept", ""))
        if not wants_json:
            return Response(data, media_type=_PARQUET)
        rows, after = await asyncio.to_thread(tile_page, data, start=cursor, limit=limit)
        return JSONResponse({"tiles": rows, "next_cursor": after})

    @routes.get(
        "/{job_id}/masks",
        dependencies=[Depends(read)],
        response_class=Response,
        operation_id="slideMasks",
        responses=problems(401, 403, 404, 409),
    )
    async def masks(job_id: JobId) -> Response:
        """Tissue and flagged regions, as GeoJSON in pixels of level 0."""
        data = await asyncio.to_thread(_result, services, found, job_id, "masks/{}.geojson", None)
        return Response(data, media_type="application/geo+json")

    @routes.get(
        "/{job_id}/evidence",
        dependencies=[Depends(read)],
        response_class=Response,
        operation_id="slideEvidence",
        responses=problems(401, 403, 404, 409),
    )
    async def evidence(job_id: JobId, bundle: str | None = None) -> Response:
        """Thumbnail, heatmap and the most abnormal tiles, as one SVG."""
        data = await asyncio.to_thread(_result, services, found, job_id, "evidence/{}.svg", bundle)
        return Response(data, media_type="image/svg+xml")

    @routes.get(
        "/{job_id}/{picture}",
        dependencies=[Depends(read)],
        response_class=Response,
        operation_id="slidePicture",
        responses=problems(401, 403, 404, 409),
    )
    async def picture(job_id: JobId, picture: Literal["thumbnail", "heatmap"], bundle: str | None = None) -> Response:
        """The whole slide in small, or its heatmap: JPEG."""
        data = await asyncio.to_thread(_result, services, found, job_id, "evidence/{}.svg", bundle)
        jpeg = picture_in(data, picture)
        if not jpeg:
            raise RefusedError(404, f"the slide has no {picture}")
        return Response(jpeg, media_type="image/jpeg")

    return routes


def _submitted(services: Services, asked: SlideRequest, by: str, key: str | None) -> Job:
    return job_of_record(services.jobs, order_slide(services, asked, by=by, key=key))


def _page(services: Services, batch: str | None, state: State | None, limit: int, cursor: str | None) -> JobPage:
    """A page of jobs; of one state, so many jobs are looked at that a request ends."""
    jobs: list[Job] = []
    looked_at, after = 0, cursor or ""
    while len(jobs) < limit and looked_at < MOST_LOOKED_AT:
        ids = (
            services.jobs.ids(after=after, limit=limit)
            if batch is None
            else services.jobs.ids_of_batch(batch, after=after, limit=limit)
        )
        for record in services.jobs.records(ids):
            job = job_of_record(services.jobs, record)
            after = job.id
            if state is None or job.state == state:
                jobs.append(job)
            if len(jobs) == limit:
                return JobPage(slides=jobs, next_cursor=after)
        looked_at += len(ids)
        if len(ids) < limit:
            return JobPage(slides=jobs, next_cursor=None)
    return JobPage(slides=jobs, next_cursor=after)


def _cancelled(services: Services, found: Any, job_id: str, by: str) -> Job:
    record = found(job_id)
    if services.jobs.cancel(record.id, by=by).end != "cancelled":
        raise RefusedError(409, "the slide is decided already, or this very moment: its job cannot be cancelled")
    return job_of_record(services.jobs, record)


def _result(services: Services, found: Any, job_id: str, path: str, bundle: str | None) -> bytes:
    record = found(job_id)
    return result_bytes(services, record, path.format(record.slide.slide_id), bundle=bundle)


async def _events(services: Services, record: JobRecord, request: Request) -> AsyncIterator[str]:
    """The events of a job until it has ended, or nobody listens."""
    told, quiet_s = "", 0.0
    yield f"retry: {int(EVENTS_S * 2000)}\n\n"
    while not await request.is_disconnected():
        job = await asyncio.to_thread(job_of_record, services.jobs, record)
        text = job.model_dump_json()
        if text != told:
            told, quiet_s = text, 0.0
            yield f"event: progress\ndata: {text}\n\n"
        if job.state in ("done", "cancelled"):
            return
        quiet_s += EVENTS_S
        if quiet_s >= KEEP_ALIVE_S:
            quiet_s = 0.0
            yield ": still there\n\n"
        await asyncio.sleep(EVENTS_S)
