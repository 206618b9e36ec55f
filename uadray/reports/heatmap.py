"""The heatmap of a slide: the scores of its tiles, laid over its thumbnail."""

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uadray.reports.colours import tint
from uadray.reports.pictures import Image, check_image

_UNREADABLE_RING = (0, 70, 160)  # blue: on no point of the colour scale, and told apart by every common colour vision
_THRESHOLD_RING = (10, 10, 10)


def heatmap(
    thumbnail: Image,
    tiles: pa.Table,
    *,
    level0_size: tuple[int, int],
    low: float,
    high: float,
    threshold: float | None,
) -> Image:
    """Lay tile scores over a slide's thumbnail.

    The thumbnail becomes light grey; a scored tile is tinted by its score; tissue shows through. Where tiles overlap
    the highest score is seen. A tile without a finite score is hatched black on white inside a blue ring, on top of
    everything, so that a failure never looks like a score.

    Args:
        thumbnail: the whole slide, uint8 [h, w, 3].
        tiles: rows of `TILE_SCORES`.
        level0_size: the slide's width and height in level-0 pixels.
        low: the score at the pale end of the scale; lower scores look the same.
        high: the score at the dark end; higher scores look the same.
        threshold: tiles scoring at least this are ringed in black; None rings nothing.

    Returns:
        A picture of the thumbnail's size.
    """
    check_image(thumbnail)
    height, width = thumbnail.shape[:2]
    windows = tile_windows(tiles, level0_size=level0_size, thumbnail_size=(width, height))
    scores = np.asarray(tiles["score"].to_numpy(zero_copy_only=False), dtype=np.float64)
    finite = np.isfinite(scores)
    order = np.argsort(scores[finite], kind="stable")  # painted last is seen: the highest
    painted = _paint(np.full((height, width), np.nan), windows[finite][order], scores[finite][order])
    unreadable = _paint(np.zeros((height, width)), windows[~finite], np.ones(int((~finite).sum()))) > 0
    picture = tint(_pale_grey(thumbnail), painted, low=low, high=high)
    stroke_px = _stroke_px(windows, max(height, width))
    if threshold is not None:
        picture[_ring(painted >= threshold, stroke_px)] = _THRESHOLD_RING
    return _hatch(picture, unreadable, stroke_px)


def tile_windows(
    tiles: pa.Table, *, level0_size: tuple[int, int], thumbnail_size: tuple[int, int]
) -> NDArray[np.int64]:
    """The windows of tiles in a thumbnail: int64 [N, 4], x0, y0, x1, y1 in thumbnail pixels, ends excluded.

    A thumbnail pixel belongs to a tile when its centre does, so neighbours share no pixel and leave none between them.
    A tile that covers no centre takes the pixel its own centre is in. What lies outside the slide is cut off.

    Args:
        tiles: a table with the columns of `TILES`.
        level0_size: the slide's width and height in level-0 pixels.
        thumbnail_size: the thumbnail's width and height in pixels.
    """
    x0, x1 = _edges(tiles, "x_level0_px", "width_level0_px", size_level0_px=level0_size[0], size_px=thumbnail_size[0])
    y0, y1 = _edges(tiles, "y_level0_px", "height_level0_px", size_level0_px=level0_size[1], size_px=thumbnail_size[1])
    return np.stack([x0, y0, x1, y1], axis=1)


def _edges(
    tiles: pa.Table, start: str, length: str, *, size_level0_px: int, size_px: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    begin = tiles[start].to_numpy(zero_copy_only=False).astype(np.int64)
    end = begin + tiles[length].to_numpy(zero_copy_only=False).astype(np.int64)
    first, last = (-((size_level0_px - 2 * edge * size_px) // (2 * size_level0_px)) for edge in (begin, end))
    centre = (begin + end) * size_px // (2 * size_level0_px)
    small = last <= first
    first, last = np.where(small, centre, first), np.where(small, centre + 1, last)
    return np.clip(first, 0, size_px), np.clip(last, 0, size_px)


def _paint(canvas: NDArray[np.float64], windows: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    # A slice a tile: 50,000 tiles take some 30 ms, and no index array as large as the thumbnail is built.
    for (x0, y0, x1, y1), value in zip(windows.tolist(), values.tolist(), strict=True):
        canvas[y0:y1, x0:x1] = value
    return canvas


def _pale_grey(thumbnail: Image) -> Image:
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    return np.repeat((125 + grey * (130 / 255)).astype(np.uint8)[..., None], 3, axis=2)


def _stroke_px(windows: NDArray[np.int64], size_px: int) -> int:
    # Seen when the picture is shown at a third of its size, and never wider than a sixth of a tile.
    tile_px = int(np.median(windows[:, 2] - windows[:, 0])) if len(windows) else 0
    return max(1, min(round(size_px / 400), tile_px // 6))


def _ring(mask: NDArray[np.bool_], stroke_px: int) -> NDArray[np.bool_]:
    # Outside the region, so that a tile of one pixel keeps its colour.
    reach = np.ones((2 * stroke_px + 1, 2 * stroke_px + 1), np.uint8)
    grown: NDArray[np.bool_] = cv2.dilate(mask.astype(np.uint8), reach) > 0
    return grown & ~mask


def _hatch(picture: Image, unreadable: NDArray[np.bool_], stroke_px: int) -> Image:
    size_px = max(unreadable.shape)
    line_px = max(1, round(size_px / 400))
    y, x = np.ogrid[: unreadable.shape[0], : unreadable.shape[1]]
    picture[unreadable] = 255
    picture[unreadable & ((x + y) % (3 * line_px) < line_px)] = 0
    picture[_ring(unreadable, max(stroke_px, round(size_px / 600)))] = _UNREADABLE_RING
    return picture
