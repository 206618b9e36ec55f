"""The HTTP side of the endpoint. Knows nothing of Ray.

A request is checked in the order of what each check costs: the token, room in the queue, the size of the body, its
fields, the sizes that its images claim; only then is an image decoded.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from uadray import __version__
from uadray.detectors.bundle import Bundle
from uadray.serving.access import authorise
from uadray.serving.answers import Score, answer
from uadray.serving.config import ServeConfig
from uadray.serving.refusals import RefusedError, answer_errors_in_json
from uadray.serving.requests import parse_request, read_body
from uadray.serving.schemas import (
    Health,
    Problem,
    TileRequest,
    TileResponse,
)

Ready = Callable[[], Awaitable[bool]]
"""Whether every stage has loaded the bundle."""


def build_http(config: ServeConfig, bundle: Bundle, *, token_digest: str | None, score: Score, ready: Ready) -> FastAPI:
    """The FastAPI application.

    Args:
        config: limits.
        bundle: what scores.
        token_digest: of the bearer token; None answers this machine alone, without one, and nothing that shows that a
            proxy passed it on.
        score: pixels [N, tile, tile, 3], and whether maps are wanted -> their scores.
        ready: whether every stage has loaded the bundle.
    """
    app = FastAPI(title="uadray", version=__version__, docs_url=None, redoc_url=None)
    gate = _Gate(ongoing=config.max_ongoing_requests, queued=config.max_queued_requests)
    answer_errors_in_json(app)

    def check_access(request: Request) -> None:
        authorise(request, token_digest)

    @app.get("/healthz", response_model=Health, responses={503: {"model": Health}})
    async def healthz() -> JSONResponse:
        is_ready = await ready()
        health = Health(
            status="ok" if is_ready else "starting", bundle_id=bundle.id, name=bundle.name,
            tile_px=bundle.tiles.tile_px, mpp=bundle.tiles.mpp,
        )  # fmt: skip
        return JSONResponse(health.model_dump(), status_code=200 if is_ready else 503)

    @app.post(
        "/v1/tiles/score",
        dependencies=[Depends(check_access)],
        response_model=TileResponse,
        responses={status: {"model": Problem} for status in (401, 408, 413, 422, 503)},
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _inline(TileRequest)}}}
        },
    )
    async def score_tiles(request: Request) -> JSONResponse:
        try:
            async with asyncio.timeout(config.request_timeout_s), gate.admitted():
                asked = parse_request(await read_body(request, config.max_body_bytes), config.max_tiles_per_request)
                async with gate.working:
                    scored = await answer(asked, config=config, bundle=bundle, score=score)
        except TimeoutError as error:
            raise RefusedError(408, f"no answer within {config.request_timeout_s:g} s; send fewer tiles") from error
        return JSONResponse(scored.model_dump(exclude=None if asked.maps else {"scores": {"__all__": {"map"}}}))

    return app


class _Gate:
    """Admits so many requests to work and so many to wait; the next is refused before its body is read."""

    def __init__(self, *, ongoing: int, queued: int) -> None:
        self.working = asyncio.Semaphore(ongoing)
        self._room = ongoing + queued

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        if self._room <= 0:
            raise RefusedError(503, "too many requests are waiting; try again in a moment", {"Retry-After": "1"})
        self._room -= 1
        try:
            yield
        finally:
            self._room += 1


def _inline(model: type[TileRequest]) -> dict[str, Any]:
    """A model's JSON schema without references: FastAPI does not know the models of bodies it does not read."""
    schema = model.model_json_schema()
    schema["properties"]["tiles"]["items"] = schema.pop("$defs")["Tile"]
    return schema
