"""Pictures of a tile: what was seen, what was made of it, the difference, and where that is."""

import asyncio
import base64

import cv2
import numpy as np

from uadray.serving.scores import Floats, Scores, TilePictures, Wanted
from uadray.serving.views.tile_panel import tile_pictures
from uadray.tiles.images import Pixels

TILE = np.full((32, 32, 3), 200, np.uint8)


def told(residual: Floats | None, reconstruction: Pixels | None = TILE[None]) -> dict[str, str | None]:
    async def score(pixels: Pixels, wanted: Wanted) -> Scores:
        assert wanted.maps
        assert wanted.pictures
        shown = TilePictures(np.arange(1), pixels, reconstruction)
        return Scores(np.ones(1), None, residual, shown)

    return asyncio.run(tile_pictures(TILE, score))


def opened(uri: str | None) -> np.ndarray:
    assert uri is not None
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_the_highest_residual_is_outlined_on_the_tile() -> None:
    residual = np.zeros((1, 16, 16), np.float32)
    residual[0, 2:5, 10:13] = 7
    pictures = told(residual)
    assert list(pictures) == ["query", "reconstruction", "residual", "outline"]
    rows, columns = np.nonzero(opened(pictures["outline"])[..., 0] < 100)  # the line is yellow
    assert rows.max() < 70
    assert columns.min() > 80
    assert opened(pictures["residual"]).shape == (16, 16, 3)


def test_without_numbers_or_a_reconstruction_nothing_is_outlined() -> None:
    odd = told(np.full((1, 8, 8), np.nan, np.float32))
    assert odd["residual"] is odd["outline"] is None
    assert told(np.ones((1, 8, 8), np.float32), None)["outline"] is None
    assert told(None)["outline"] is None
