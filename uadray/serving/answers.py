"""A request's images -> pixels -> scores -> the answer. A bad image gets an error and costs no other tile its score.

Headers are read before any image is decoded, so that images that claim too many pixels are refused unseen. Decoding
happens in a thread, a few images at a time.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from uadray import metrics
from uadray.detectors.bundle import Bundle
from uadray.serving.base64_images import claimed_px, decode_tile
from uadray.serving.config import ServeConfig
from uadray.serving.refusals import RefusedError
from uadray.serving.schemas import ResidualMap, TileRequest, TileResponse, TileScore
from uadray.serving.scores import Scores
from uadray.tiles.images import ImageError, Pixels

DECODE_CHUNK = 16
"""Images that a thread decodes in one call: a request that has timed out stops after so many at the latest."""

Result = TypeVar("Result")

Score = Callable[[Pixels, bool], Awaitable[Scores]]
"""Pixels [N, tile, tile, 3], and whether maps are wanted -> their scores."""


async def answer(asked: TileRequest, *, config: ServeConfig, bundle: Bundle, score: Score) -> TileResponse:
    """Decode the tiles of a request and score those that are good.

    Args:
        asked: the request.
        config: limits on what is decoded.
        bundle: what scores.
        score: pixels and whether maps are wanted -> their scores.

    Returns:
        For each tile, in the order of the request, a score or an error.

    Raises:
        RefusedError: 413, the images claim too many pixels together.
    """
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
    """Apply a function to each image in a thread, `DECODE_CHUNK` images at a time."""
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
