"""`POST /v1/tiles/score`: tiles in, scores out, while the client waits.

A request is checked in the order of what each check costs: the token, room for a request, the size of the body, its
fields, the sizes that its images claim; only then is an image decoded.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from uadray.serving.access.audit import add_subject
from uadray.serving.config import ServeConfig
from uadray.serving.exchange.bodies import media_type, read_body, told, unless_gone
from uadray.serving.exchange.limits import PixelRoom, RequestGate
from uadray.serving.exchange.openapi import TILES_BODY, problems
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.registry import RegisteredBundle
from uadray.serving.schemas import ImageOptions, TileOptions, TileRequest, TileResponse
from uadray.serving.scores import Wanted
from uadray.serving.services import Services
from uadray.serving.tiles.answers import Question, answer, in_thread
from uadray.serving.tiles.base64_images import MEDIA_TYPES
from uadray.serving.tiles.npz_tiles import NpzError, NpzTiles, NpzTooLargeError

JSON = ("", "application/json")
NPZ = ("application/x-npz", "application/zip")


def router(services: Services) -> APIRouter:
    """The route."""
    config = services.config
    routes = APIRouter(tags=["tiles"])
    gate = RequestGate(config.max_ongoing_requests)
    room = PixelRoom(config.max_pixels_in_flight)

    async def scored(request: Request, body: bytes) -> JSONResponse:
        options, read = await in_thread(_asked, request, body, config)
        bundle = await in_thread(services.registry.get, options.bundle)
        add_subject(request.scope, bundle=bundle.id)
        if bundle.description.tiles.stain is not None:
            raise RefusedError(
                422, f"bundle {bundle.name} normalises stain by slide; it cannot score tiles that come alone"
            )
        question = await in_thread(read, config, bundle)
        answered = await answer(question, config=config, bundle=bundle, score=services.score, room=room)
        return JSONResponse(answered.model_dump(exclude=_left_out(options)))

    @routes.post(
        "/v1/tiles/score",
        operation_id="score_tiles",
        dependencies=[Depends(services.access.requires("score"))],
        response_model=TileResponse,
        responses=problems(400, 401, 403, 404, 413, 415, 422, 429, 503, 504),
        openapi_extra=TILES_BODY,
    )
    async def score_tiles(request: Request) -> JSONResponse:
        """Scores tiles: JSON with images in base64, one PNG or JPEG as it is, or an .npz of pixels.

        A bad image gets an error in its place, and costs no other tile its score.
        """
        try:
            async with gate.admitted(), asyncio.timeout(config.request_timeout_s):
                body = await read_body(request)
                return await unless_gone(request, scored(request, body))
        except TimeoutError as error:
            raise RefusedError(504, f"no answer within {config.request_timeout_s:g} s; send fewer tiles") from error

    return routes


Read = Callable[[ServeConfig, RegisteredBundle], Question]
"""What is asked of a bundle, once it is known which."""


def _asked(request: Request, body: bytes, config: ServeConfig) -> tuple[TileOptions, Read]:
    """The options of a request, and how its tiles are read.

    Raises:
        RefusedError: 415 or 422.
    """
    kind = media_type(request)
    if kind in JSON:
        if request.query_params:
            raise RefusedError(422, "the options of a request in JSON stand in its body, not in the query")
        asked = _tile_request(body, config.max_tiles_per_request)
        return asked, lambda _, __: Question(
            [tile.id for tile in asked.tiles], [tile.image for tile in asked.tiles], _wanted(asked)
        )
    if kind in MEDIA_TYPES:
        options = _query(ImageOptions, request)
        return options, lambda config, _: Question([options.id], [body], _wanted(options))
    if kind in NPZ:
        archive = _query(TileOptions, request)
        return archive, lambda config, bundle: _of_archive(body, archive, config, bundle)
    expected = ", ".join(["application/json", *MEDIA_TYPES, NPZ[0]])
    raise RefusedError(415, f"expected Content-Type: one of {expected}", {"Accept-Post": expected})


def _tile_request(body: bytes, max_tiles: int) -> TileRequest:
    """The JSON of a body.

    Raises:
        RefusedError: 422 and the field, or 413 where there are too many tiles.
    """
    too_many = RefusedError(413, f"too many tiles; at most {max_tiles} in a request, send several")
    try:
        asked = TileRequest.model_validate_json(body)
    except ValidationError as error:
        if any(p["type"] == "too_long" and p["loc"] == ("tiles",) for p in error.errors()):
            raise too_many from None
        raise RefusedError(422, told(error)) from None
    if len(asked.tiles) > max_tiles:
        raise too_many
    return asked


def _of_archive(body: bytes, options: TileOptions, config: ServeConfig, bundle: RegisteredBundle) -> Question:
    try:
        tiles = NpzTiles(
            body, tile_px=bundle.description.tiles.tile_px, max_tiles=config.max_tiles_per_request,
            max_image_px=config.max_image_px, max_pixels=config.max_pixels_per_request,
        )  # fmt: skip
    except NpzError as error:
        raise RefusedError(413 if isinstance(error, NpzTooLargeError) else 422, str(error)) from error
    return Question(tiles.ids, tiles, _wanted(options))


def _wanted(options: TileOptions) -> Wanted:
    return Wanted(maps=options.maps, pictures=options.reconstructions)


def _query(model: Any, request: Request) -> Any:
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RefusedError(422, f"query: {told(error)}") from None


def _left_out(options: TileOptions) -> dict[str, Any]:
    """Fields of the answer that were not asked for."""
    fields = {"map": options.maps, "reconstruction": options.reconstructions}
    return {"scores": {"__all__": {name for name, is_wanted in fields.items() if not is_wanted}}}
