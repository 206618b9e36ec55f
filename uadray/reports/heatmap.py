"""The heatmap of a slide: the scores of its tiles, and of their cells where there are any, laid over its thumbnail.

Cells alone show a lesion worse than its tiles do, whose scores are of all their cells; a tile alone does not show where
in it. So a colour is for one half the tile's, for the other the cell's (figures: DECISIONS.md).
"""

from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uadray.reports.colours import share, tint
from uadray.reports.pictures import Image, check_image, pale_grey
from uadray.reports.tile_cells import cells_at
from uadray.tiles.cells import Cells, cells_of, fewer, smoothed

Number = TypeVar("Number", np.float64, np.int32)

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
    cell_scale: tuple[float, float] | None = None,
    seen_share: float = 1.0,
) -> Image:
    """Lay tile scores, and the cells of tiles, over a slide's thumbnail.

    The thumbnail becomes light grey; a scored tile is tinted by its score; tissue shows through. Where tiles overlap
    the tile with the highest score is seen. A tile without a finite score is hatched black on white inside a blue ring,
    on top of everything, so that a failure never looks like a score.

    A tile that has cells is tinted by the mean of where its score and its cell lie on their scales, smoothly from one
    cell's middle to the next. The ring stays that of tiles: no threshold is known of cells.

    Args:
        thumbnail: the whole slide, uint8 [h, w, 3].
        tiles: rows of `TILE_SCORES`, perhaps with the column `CELLS`.
        level0_size: the slide's width and height in level-0 pixels.
        low: the score at the pale end of the scale; lower scores look the same.
        high: the score at the dark end; higher scores look the same.
        threshold: tiles scoring at least this are ringed in black; None rings nothing.
        cell_scale: `low` and `high` of smoothed cells; None paints no cells.
        seen_share: side of the tile's centre that its cells are of, over the tile's side.

    Returns:
        A picture of the thumbnail's size.
    """
    check_image(thumbnail)
    height, width = thumbnail.shape[:2]
    windows = tile_windows(tiles, level0_size=level0_size, thumbnail_size=(width, height))
    scores = np.asarray(tiles["score"].to_numpy(zero_copy_only=False), dtype=np.float64)
    finite = np.isfinite(scores)
    order = np.flatnonzero(finite)[np.argsort(scores[finite], kind="stable")]  # painted last is seen: the highest
    painted = _paint(np.full((height, width), np.nan), windows[order], scores[order])
    unreadable = _paint(np.zeros((height, width)), windows[~finite], np.ones(int((~finite).sum()))) > 0
    shares = np.where(np.isnan(painted), np.nan, share(painted, low=low, high=high))
    cells = cells_of(tiles) if cell_scale is not None else None
    if cells is not None and cell_scale is not None:
        seen = _paint(np.full((height, width), -1, np.int32), windows[order], order)
        values = _cell_values(cells, seen, tiles, windows, level0_size=level0_size, seen_share=seen_share)
        both = (shares + share(values, low=cell_scale[0], high=cell_scale[1])) / 2
        shares = np.where(np.isnan(values), shares, both)
    picture = tint(pale_grey(thumbnail), shares, low=0, high=1)
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


def _cell_values(
    cells: Cells, seen: NDArray[np.int32], tiles: pa.Table, windows: NDArray[np.int64], *,
    level0_size: tuple[int, int], seen_share: float,
) -> NDArray[np.float32]:  # fmt: skip
    """The value of the smoothed cells at each pixel; NaN where no tile with cells is seen."""
    cells = smoothed(cells)
    window_px = int(np.median(windows[:, 2] - windows[:, 0]))
    if window_px < cells.shape[1]:  # fewer pixels than cells: means, so that none is passed over
        cells = fewer(cells, max(1, window_px))
    at = np.flatnonzero(seen.ravel() >= 0)
    tile = seen.ravel()[at].astype(np.int64)
    y_px, x_px = np.divmod(at, seen.shape[1])
    places = (
        _places(pixel, tile, _column(tiles, start), _column(tiles, length), level0_px_a_pixel=size / n_px)
        for pixel, start, length, size, n_px in (
            (x_px, "x_level0_px", "width_level0_px", level0_size[0], seen.shape[1]),
            (y_px, "y_level0_px", "height_level0_px", level0_size[1], seen.shape[0]),
        )
    )
    x, y = ((place - np.float32(0.5)) / np.float32(seen_share) + np.float32(0.5) for place in places)
    values = np.full(seen.size, np.nan, np.float32)
    values[at] = cells_at(cells, tile, x, y)
    return values.reshape(seen.shape)


def _places(
    pixel: NDArray[np.int64], tile: NDArray[np.int64], start: NDArray[np.int64], length: NDArray[np.int64], *,
    level0_px_a_pixel: float,
) -> NDArray[np.float32]:  # fmt: skip
    """Where the middles of pixels lie in their tiles, along one side: from 0 to 1."""
    pixels_long = (length / level0_px_a_pixel).astype(np.float32)
    begins = (start / level0_px_a_pixel - 0.5).astype(np.float32)
    return np.asarray((pixel.astype(np.float32) - begins[tile]) / pixels_long[tile], np.float32)


def _column(tiles: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(tiles[name].to_numpy(zero_copy_only=False), np.int64)


def _edges(
    tiles: pa.Table, start: str, length: str, *, size_level0_px: int, size_px: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    begin = _column(tiles, start)
    end = begin + _column(tiles, length)
    first, last = (-((size_level0_px - 2 * edge * size_px) // (2 * size_level0_px)) for edge in (begin, end))
    centre = (begin + end) * size_px // (2 * size_level0_px)
    small = last <= first
    first, last = np.where(small, centre, first), np.where(small, centre + 1, last)
    return np.clip(first, 0, size_px), np.clip(last, 0, size_px)


def _paint(canvas: NDArray[Number], windows: NDArray[np.int64], values: NDArray[Any]) -> NDArray[Number]:
    # A slice a tile: 50,000 tiles take some 30 ms, and no index array as large as the thumbnail is built.
    for (x0, y0, x1, y1), value in zip(windows.tolist(), values.tolist(), strict=True):
        canvas[y0:y1, x0:x1] = value
    return canvas


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
