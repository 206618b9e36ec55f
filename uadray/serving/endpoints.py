"""The HTTP side: who may ask, how much at a time, and every refusal as one line of JSON. Knows nothing of Ray.

The order is that of cost: token, room in the queue, size of the body, its fields, the sizes that images claim, and only
then an image.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from uadray import __version__, metrics
from uadray.detectors.bundle import Bundle
from uadray.serving.base64_images import claimed_px, decode_tile
from uadray.serving.schemas import (
    Health,
    Problem,
    ResidualMap,
    ServeConfig,
    TileRequest,
    TileResponse,
    TileScore,
    host_name,
    is_loopback,
)
from uadray.serving.stages import Scores
from uadray.tiles.images import ImageError, Pixels

DECODE_CHUNK = 16
"""Tiles decoded in one visit to a thread: a request that has timed out stops after at most these."""

FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})
"""Headers by which a proxy tells of itself, beside all that begin with `x-forwarded-`."""

log = logging.getLogger("uadray.serving")

Result = TypeVar("Result")

Score = Callable[[Pixels, bool], Awaitable[Scores]]
Ready = Callable[[], Awaitable[bool]]


class RefusedError(Exception):
    """A request that gets no scores at all.

    Attributes:
        status: of HTTP.
        message: one line.
        headers: for the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


def digest(token: str) -> str:
    """What a server keeps of its token: enough to recognise it, not to reveal it."""
    return hashlib.sha256(token.encode()).hexdigest()


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
    for error in (RefusedError, HTTPException, Exception):
        app.add_exception_handler(error, _problem)

    def authorise(request: Request) -> None:
        _authorise(request, token_digest)

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
        dependencies=[Depends(authorise)],
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
                    answer = await _answer(asked, config=config, bundle=bundle, score=score)
        except TimeoutError as error:
            raise RefusedError(408, f"no answer within {config.request_timeout_s:g} s; send fewer tiles") from error
        return JSONResponse(answer.model_dump(exclude=None if asked.maps else {"scores": {"__all__": {"map"}}}))

    return app


class _Gate:
    """Room for so many requests at work and so many in wait; the next is refused before its body is read."""

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


def _authorise(request: Request, token_digest: str | None) -> None:
    if token_digest is None:
        _check_local(request)
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), token_digest):
        raise RefusedError(
            401, "missing or wrong token; send the header Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"}
        )


def _check_local(request: Request) -> None:
    """Without a token this machine alone is answered, whatever address is listened on.

    A reverse proxy on this machine looks like it. Most tell of themselves, by a header or by the name that was asked
    for; one that passes requests on without a sign of it cannot be noticed.

    Raises:
        RefusedError: 401.
    """
    start_it = "start it with UADRAY_TOKEN"
    if request.client is None or not is_loopback(request.client.host):
        raise RefusedError(401, f"this server has no token, so it answers its own machine only; {start_it}")
    told = [name for name in request.headers if name in FORWARDING or name.startswith("x-forwarded-")]
    if told:
        raise RefusedError(
            401,
            f"this server has no token, so it answers nothing that a proxy passes on (header {told[0]}); {start_it}",
        )
    if not is_loopback(host_name(request.headers.get("host", ""))):
        raise RefusedError(
            401, f"this server has no token, so it answers to localhost and 127.0.0.1 only (host); {start_it}"
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, of at most `max_bytes`; no more than that is ever held.

    Raises:
        RefusedError: 413, at the header where it tells the size, else as soon as too much has come.
    """
    too_large = RefusedError(413, f"body too large; at most {max_bytes} bytes, send several requests")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > max_bytes:
                raise too_large
            body += chunk
    except ClientDisconnect as error:
        raise RefusedError(400, "the connection ended before the body did") from error
    return bytes(body)


def parse_request(body: bytes, max_tiles: int) -> TileRequest:
    """Read the JSON.

    Raises:
        RefusedError: 422 and the field, or 413 where there are too many tiles.
    """
    too_many = RefusedError(413, f"too many tiles; at most {max_tiles} in a request, send several")
    try:
        asked = TileRequest.model_validate_json(body)
    except ValidationError as error:
        # without the input: it is patients' images
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        if any(p["type"] == "too_long" and p["loc"] == ("tiles",) for p in problems):
            raise too_many from None
        lines = [f"{'.'.join(map(str, p['loc']))[:100] or 'body'}: {p['msg']}" for p in problems[:3]]
        raise RefusedError(422, "; ".join(lines)) from None
    if len(asked.tiles) > max_tiles:
        raise too_many
    return asked


async def _answer(asked: TileRequest, *, config: ServeConfig, bundle: Bundle, score: Score) -> TileResponse:
    pixels, errors = await _decoded([tile.image for tile in asked.tiles], config, bundle.tiles.tile_px)
    scores = await score(pixels, asked.maps) if len(pixels) else Scores(np.empty(0), None)
    if len(scores.score) != len(pixels):
        raise RuntimeError(f"{len(scores.score)} scores for {len(pixels)} tiles")
    metrics.Meter("serve_map").add(errors=len(errors) - len(pixels))
    position, results = iter(range(len(pixels))), []
    for tile, error in zip(asked.tiles, errors, strict=True):
        outcome = _scored(scores, next(position)) if error is None else _failed(error)
        results.append(
            TileScore(id=tile.id, **outcome, **({"map": None} if asked.maps and "map" not in outcome else {}))
        )
    return TileResponse(bundle_id=bundle.id, scores=results)


async def _decoded(images: list[str], config: ServeConfig, tile_px: int) -> tuple[Pixels, list[str | None]]:
    """RGB [n_good, tile_px, tile_px, 3], and what is wrong with each image: None for a good one.

    Raises:
        RefusedError: 413, before anything is decoded, where the headers claim too many pixels together.
    """
    claimed = partial(claimed_px, tile_px=tile_px, max_image_px=config.max_image_px)
    claims = [px async for px in _in_thread(claimed, images)]
    if sum(claims) > config.max_pixels_per_request:
        raise RefusedError(
            413,
            f"images of {sum(claims)} pixels together; at most {config.max_pixels_per_request} in a request, "
            f"send several, or tiles of {tile_px} px",
        )
    pixels = np.empty((sum(px > 0 for px in claims), tile_px, tile_px, 3), np.uint8)
    errors: list[str | None] = []
    n_good = 0
    tile = partial(_tile_or_error, tile_px=tile_px, max_image_px=config.max_image_px)
    async for part in _in_thread(tile, images):
        if isinstance(part, str):
            errors.append(part)
            continue
        errors.append(None)
        pixels[n_good] = part
        n_good += 1
    return pixels[:n_good], errors


async def _in_thread(function: Callable[[str], Result], images: list[str]) -> AsyncIterator[Result]:
    """Apply to each image in a thread, some at a time."""
    for start in range(0, len(images), DECODE_CHUNK):
        for result in await asyncio.to_thread(_each, function, images[start : start + DECODE_CHUNK]):
            yield result


def _each(function: Callable[[str], Result], images: list[str]) -> list[Result]:
    return [function(image) for image in images]


def _tile_or_error(image: str, *, tile_px: int, max_image_px: int) -> Pixels | str:
    try:
        return decode_tile(image, tile_px=tile_px, max_image_px=max_image_px)
    except ImageError as error:
        return str(error)


def _failed(error: str) -> dict[str, Any]:
    return {"score": None, "error": error}


def _scored(scores: Scores, i: int) -> dict[str, Any]:
    value = float(scores.score[i])
    if not np.isfinite(value):
        return _failed(f"the detector gave {value}, which is no score")
    outcome: dict[str, Any] = {"score": value, "error": None}
    return outcome if scores.residual is None else outcome | {"map": _map(scores.residual[i])}


def _map(residual: npt.NDArray[np.float32]) -> ResidualMap:
    height, width = residual.shape
    return ResidualMap(shape=(height, width), float32=base64.b64encode(residual.astype("<f4").tobytes()).decode())


async def _problem(request: Request, error: Exception) -> JSONResponse:
    match error:
        case RefusedError():
            status, message, headers = error.status, error.message, error.headers
        case HTTPException():
            status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
        case _:
            log.error("%s %s: %s", request.method, request.url.path, type(error).__name__)
            status, message, headers = 500, "the server failed; its log says why", None
    return JSONResponse({"error": " ".join(message.split())}, status_code=status, headers=headers)


def _inline(model: type[TileRequest]) -> dict[str, Any]:
    """A model's JSON schema without references: FastAPI does not know the models of bodies it does not read."""
    schema = model.model_json_schema()
    schema["properties"]["tiles"]["items"] = schema.pop("$defs")["Tile"]
    return schema
