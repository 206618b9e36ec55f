"""`/v1/batches`: many slides under one parent, from a manifest, a prefix or a list."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from uadray.serving.access.audit import add_subject
from uadray.serving.access.callers import Caller
from uadray.serving.exchange.openapi import problems
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.jobs.batches import Batches, BatchRecord
from uadray.serving.jobs.orders import order_batch
from uadray.serving.jobs.schemas import Batch, BatchPage, BatchRequest, shown_time
from uadray.serving.routes.slides import Cursor, JobId, Key, Limit
from uadray.serving.services import Services


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/batches", tags=["batches"])
    read, submit = services.access.requires("read"), services.access.requires("submit")
    batches = Batches(services.jobs)

    def found(batch_id: str) -> BatchRecord:
        record = batches.record(batch_id)
        if record is None:
            raise RefusedError(404, "no such batch")
        return record

    @routes.post(
        "",
        status_code=202,
        response_model=Batch,
        operation_id="submitBatch",
        responses=problems(401, 403, 409, 413, 422, 429),
    )
    async def submit_batch(
        asked: BatchRequest,
        request: Request,
        response: Response,
        caller: Annotated[Caller, Depends(submit)],
        key: Key = None,
    ) -> Batch:
        """Send many slides. Each becomes a job; slides that come meanwhile are not stuck behind them."""
        record = await asyncio.to_thread(
            lambda: order_batch(services, asked, by=caller.name, key=asked.idempotency_key or key)
        )
        add_subject(request.scope, batch_id=record.id)
        response.headers["Location"] = f"/v1/batches/{record.id}"
        return await asyncio.to_thread(_shown, services, batches, record)

    @routes.get(
        "",
        response_model=BatchPage,
        dependencies=[Depends(read)],
        operation_id="listBatches",
        responses=problems(401, 403),
    )
    async def list_batches(limit: Limit = 50, cursor: Cursor = None) -> BatchPage:
        """Batches, the newest first, without their counts."""
        return await asyncio.to_thread(_page, services, batches, limit, cursor)

    @routes.get(
        "/{batch_id}",
        response_model=Batch,
        dependencies=[Depends(read)],
        operation_id="batchStatus",
        responses=problems(401, 403, 404),
    )
    async def batch_status(batch_id: JobId) -> Batch:
        """How far a batch is."""
        return await asyncio.to_thread(lambda: _shown(services, batches, found(batch_id)))

    @routes.delete("/{batch_id}", response_model=Batch, operation_id="cancelBatch", responses=problems(401, 403, 404))
    async def cancel_batch(batch_id: JobId, caller: Annotated[Caller, Depends(submit)]) -> Batch:
        """Cancel what of a batch is not being committed; what is decided stays."""

        def cancelled() -> Batch:
            record = found(batch_id)
            batches.cancel(record.id, by=caller.name)
            return _shown(services, batches, record)

        return await asyncio.to_thread(cancelled)

    return routes


def _page(services: Services, batches: Batches, limit: int, cursor: str | None) -> BatchPage:
    ids = batches.ids(after=cursor or "", limit=limit)
    records = [record for record in map(batches.record, ids) if record is not None]
    shown = [_shown(services, batches, record, with_counts=False) for record in records]
    return BatchPage(batches=shown, next_cursor=ids[-1] if len(ids) == limit else None)


def _shown(services: Services, batches: Batches, record: BatchRecord, *, with_counts: bool = True) -> Batch:
    return Batch(
        id=record.id, source=record.source, n_slides=record.n_slides,
        bundles=[bundle.name for bundle in record.bundles], screening=record.screening, priority=record.priority,
        submitted=shown_time(record.submitted), submitted_by=record.submitted_by,
        is_cancelled=services.jobs.end(record.id) is not None,
        counts=batches.counts(record) if with_counts else None,
    )  # fmt: skip
