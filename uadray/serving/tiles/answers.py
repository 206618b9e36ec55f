"""A request's images -> pixels -> scores -> the answer. A bad image gets an error and costs no other tile its score.

Headers are read before any image is decoded, so that images that claim too many pixels are refused unseen. Decoding
happens in a thread, a few images at a time, and no image is kept beyond its request.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from uadray import metrics
from uadray.serving.config import ServeConfig
from uadray.serving.exchange.limits import Held, PixelRoom
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.registry import RegisteredBundle
from uadray.serving.schemas import ResidualMap, TileResponse, TileScore
from uadray.serving.scores import Scores, Wanted
from uadray.serving.services import Score
from uadray.serving.tiles.base64_images import claimed_px, decode_tile
from uadray.serving.tiles.npz_tiles import NpzError, NpzTiles
from uadray.tiles.images import ImageError, Pixels

DECODE_CHUNK = 16
"""Images that a thread decodes in one call: a request that has timed out stops after so many at the latest."""

THREADS = 8
"""That work on tiles. They are no others': where a store is away, threads that ask it are soon all waiting."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Images = Sequence[str | bytes] | NpzTiles
"""PNG or JPEG, as they are or in base64; or an archive of pixels."""


@dataclass(frozen=True)
class Question:
    """Tiles to score.

    Attributes:
        ids: of the tiles.
        images: one a tile.
        wanted: beside the scores.
    """

    ids: Sequence[str]
    images: Images
    wanted: Wanted


async def answer(
    asked: Question, *, config: ServeConfig, bundle: RegisteredBundle, score: Score, room: PixelRoom
) -> TileResponse:
    """Decode the tiles of a request and score those that are good.

    Args:
        asked: the request.
        config: limits on what is decoded.
        bundle: what scores.
        score: scores pixels.
        room: for pixels, which requests share.

    Returns:
        For each tile, in the order of the request, a score or an error.

    Raises:
        RefusedError: 413, the images claim too many pixels together; 422, an archive that is damaged.
    """
    tile_px = bundle.description.tiles.tile_px
    claims = await _claims(asked.images, config, tile_px)
    async with room.holding(sum(claims)) as held:
        pixels, errors = await _decoded(asked.images, claims, config, tile_px, held)
        scores = await score(bundle, pixels, asked.wanted) if len(pixels) else Scores(np.empty(0))
        if len(scores.score) != len(pixels):
            raise RuntimeError(f"{len(scores.score)} scores for {len(pixels)} tiles")
        metrics.Meter(config.counted[0]).add(errors=len(errors) - len(pixels))
        return await in_thread(_answered, asked, bundle.id, scores, errors)


async def _claims(images: Images, config: ServeConfig, tile_px: int) -> list[int]:
    """Pixels that each image will take while it is decoded; 0 for one that will not be.

    Raises:
        RefusedError: 413, too many together.
    """
    if isinstance(images, NpzTiles):
        return [images.pixels]
    claimed = partial(claimed_px, tile_px=tile_px, max_image_px=config.max_image_px)
    claims = [px async for px in _each_in_thread(claimed, images)]
    if sum(claims) > config.max_pixels_per_request:
        raise RefusedError(
            413,
            f"images of {sum(claims)} pixels together; at most {config.max_pixels_per_request} in a request, "
            f"send several, or tiles of {tile_px} px",
        )
    return claims


async def _decoded(
    images: Images, claims: Sequence[int], config: ServeConfig, tile_px: int, held: Held
) -> tuple[Pixels, list[str | None]]:
    """RGB [n_good, tile_px, tile_px, 3], and what is wrong with each image: None for a good one."""
    if isinstance(images, NpzTiles):
        pixels, errors = await _unpacked(images)
    else:
        pixels = np.empty((sum(px > 0 for px in claims), tile_px, tile_px, 3), np.uint8)
        errors, n_good = [], 0
        tile = partial(_tile_or_error, tile_px=tile_px, max_image_px=config.max_image_px)
        async for part in _each_in_thread(tile, images):
            errors.append(part if isinstance(part, str) else None)
            if not isinstance(part, str):
                pixels[n_good] = part
                n_good += 1
        pixels = pixels[:n_good]
    held.keep(len(pixels) * tile_px**2)
    return pixels, errors


async def _unpacked(archive: NpzTiles) -> tuple[Pixels, list[str | None]]:
    parts = []
    try:
        for _ in range(0, len(archive.ids), DECODE_CHUNK):
            parts.append(await in_thread(archive.read, DECODE_CHUNK))
    except NpzError as error:
        raise RefusedError(422, str(error)) from error
    return np.concatenate(parts), [None] * len(archive.ids)


async def _each_in_thread(function: Callable[[Item], Result], images: Sequence[Item]) -> AsyncIterator[Result]:
    """Apply a function to each image in a thread, `DECODE_CHUNK` images at a time."""
    for start in range(0, len(images), DECODE_CHUNK):
        for result in await in_thread(_each, function, images[start : start + DECODE_CHUNK]):
            yield result


async def in_thread(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a thread that works on tiles."""
    return await asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), function, *arguments)


@cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """The threads of this process; a fork has none of them."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="uadray-tiles")


def _each(function: Callable[[Item], Result], images: Sequence[Item]) -> list[Result]:
    return [function(image) for image in images]


def _tile_or_error(image: str | bytes, *, tile_px: int, max_image_px: int) -> Pixels | str:
    try:
        return decode_tile(image, tile_px=tile_px, max_image_px=max_image_px)
    except ImageError as error:
        return str(error)


def _answered(asked: Question, bundle_id: str, scores: Scores, errors: Sequence[str | None]) -> TileResponse:
    position, results = iter(range(len(scores.score))), []
    for tile_id, error in zip(asked.ids, errors, strict=True):
        outcome = _failed(error) if error is not None else _scored(scores, next(position))
        results.append(TileScore(id=tile_id, **outcome))
    return TileResponse(bundle_id=bundle_id, scores=results)


def _failed(error: str) -> dict[str, Any]:
    return {"score": None, "error": error}


def _scored(scores: Scores, i: int) -> dict[str, Any]:
    value = float(scores.score[i])
    if not np.isfinite(value):
        return _failed(f"the detector gave {value}, which is no score")
    outcome: dict[str, Any] = {"score": value, "error": None}
    if scores.residual is not None:
        outcome["map"] = _map(scores.residual[i])
    if scores.pictures is not None and scores.pictures.reconstruction is not None:
        outcome["reconstruction"] = _png(scores.pictures.reconstruction[i])
    return outcome


def _map(residual: npt.NDArray[np.float32]) -> ResidualMap:
    height, width = residual.shape
    return ResidualMap(shape=(height, width), float32=base64.b64encode(residual.astype("<f4").tobytes()).decode())


def _png(picture: Pixels) -> str:
    return base64.b64encode(cv2.imencode(".png", picture[..., ::-1])[1].tobytes()).decode()
