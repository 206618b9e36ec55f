"""The heatmap as a pyramid of transparent pictures over `deep_zoom`: what `reports.heatmap` paints at once.

Colours and opacity are the report's. Where tiles overlap the one with the highest score is seen; where a detector tells
of cells, a colour is for one half the tile's, for the other the cell's. Tiles below a threshold are left out, tiles
without a score are hatched black on white in blue, on top of everything.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.reports.colours import TINT, colour, share
from uadray.reports.tile_cells import cells_at
from uadray.serving.views.deep_zoom import TILE_PX, Size, scale_of, tile_size
from uadray.tiles.cells import Cells, cells_of, fewer, smoothed

Rgba = npt.NDArray[np.uint8]

STRIPE_PX, RING_PX = 6, 2
"""Of unreadable tiles: from one stripe to the next, and the width of the line around them."""

_RING = (0, 70, 160, 255)
_BOX = ("x_level0_px", "y_level0_px", "width_level0_px", "height_level0_px")


@dataclass(frozen=True)
class HeatScale:
    """How scores become colours.

    Attributes:
        low: the score at the pale end.
        high: the score at the dark end.
        cells: both ends for smoothed cells; None paints none.
        seen_share: side of a tile's centre that its cells are of, over the tile's side.
        threshold: tiles that score less are not painted; None paints all.
    """

    low: float
    high: float
    cells: tuple[float, float] | None = None
    seen_share: float = 1.0
    threshold: float | None = None


class HeatTable:
    """The tile scores of a slide, as they are painted and looked up.

    Args:
        tiles: rows of `TILE_SCORES`, perhaps with cells.
        size: the slide's width and height in level-0 pixels.

    Attributes:
        table: the rows, without their cells.
        boxes: [n, 4] x, y, width and height in level-0 pixels.
        score: [n], NaN of a tile without one.
    """

    def __init__(self, tiles: pa.Table, size: Size) -> None:
        cells = cells_of(tiles)
        self.table = tiles.drop_columns(["cells"]) if "cells" in tiles.column_names else tiles
        self.size = size
        self.boxes = np.column_stack([_column(tiles, name) for name in _BOX]) if len(tiles) else np.zeros((0, 4), int)
        self.score = np.array(tiles["score"].to_numpy(zero_copy_only=False), np.float64)
        self.score[~np.isfinite(self.score)] = np.nan
        self._cells: Cells | None = smoothed(cells) if cells is not None else None
        self._ends = self.boxes[:, :2] + self.boxes[:, 2:]

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        cells = self._cells.nbytes if self._cells is not None else 0
        return int(self.table.nbytes + self.boxes.nbytes * 2 + self.score.nbytes * 2 + cells)

    @cached_property
    def sorted_scores(self) -> npt.NDArray[np.float64]:
        """The scores that there are, ascending."""
        return np.sort(self.score[~np.isnan(self.score)])

    def at(self, x: int, y: int) -> int | None:
        """The row of the tile at a level-0 pixel, the highest score of several; None where there is none."""
        inside = np.flatnonzero((self.boxes[:, :2] <= (x, y)).all(axis=1) & (self._ends > (x, y)).all(axis=1))
        if not len(inside):
            return None
        return int(inside[np.argmax(np.nan_to_num(self.score[inside], nan=-np.inf))])

    def picture(self, scale: HeatScale, level: int, x: int, y: int) -> Rgba | None:
        """RGBA [h, w, 4] of a tile of the pyramid; None where nothing is to be seen, or there is no such tile."""
        shown = tile_size(self.size, level, x, y)
        if shown is None:
            return None
        step = scale_of(self.size, level)
        corner = np.array([x, y]) * (TILE_PX * step)
        reach = np.array(shown) * step
        rows = np.flatnonzero((self._ends > corner - step).all(1) & (self.boxes[:, :2] < corner + reach + step).all(1))
        if not len(rows):
            return None
        return self._painted(rows, scale, corner, step, shown)

    def _painted(
        self, rows: npt.NDArray[np.int64], scale: HeatScale, corner: npt.NDArray[np.int64], step: int, shown: Size
    ) -> Rgba | None:
        score = self.score[rows]
        is_bad = np.isnan(score)
        is_seen = ~is_bad if scale.threshold is None else ~is_bad & (score >= scale.threshold)
        order = np.flatnonzero(is_seen)[np.argsort(score[is_seen], kind="stable")]  # painted last is seen: the highest
        windows = _windows(self.boxes[rows] - [*corner, 0, 0], step, shown)
        seen = _paint(np.full(shown[::-1], -1, np.int64), windows[order], rows[order])
        bad = _paint(np.full(shown[::-1], -1, np.int64), windows[is_bad], rows[is_bad]) >= 0
        is_painted = seen >= 0
        if not is_painted.any() and not bad.any():
            return None
        shares = np.zeros(seen.shape)
        shares[is_painted] = self._shares(seen, is_painted, scale, corner, step)
        picture = np.zeros((*seen.shape, 4), np.uint8)
        picture[..., :3] = colour(shares, low=0, high=1)
        opacity = TINT[0] + (TINT[1] - TINT[0]) * shares
        picture[..., 3] = np.where(is_painted, np.rint(opacity * 255), 0).astype(np.uint8)
        return _hatched(picture, bad, corner // step) if bad.any() else picture

    def _shares(
        self, seen: npt.NDArray[np.int64], is_painted: npt.NDArray[np.bool_], scale: HeatScale,
        corner: npt.NDArray[np.int64], step: int,
    ) -> npt.NDArray[np.float64]:  # fmt: skip
        """Where the painted pixels lie on the colour scale, row by row."""
        tile = seen[is_painted]
        shares = share(self.score[tile], low=scale.low, high=scale.high)
        if self._cells is None or scale.cells is None:
            return shares
        used, which = np.unique(tile, return_inverse=True)
        cells = self._cells[used]
        window_px = int(np.median(self.boxes[used, 2])) // step
        if window_px < cells.shape[1]:  # fewer pixels than cells: means, so that none is passed over
            cells = fewer(cells, max(1, window_px))
        y_px, x_px = np.nonzero(is_painted)
        x, y = (
            ((corner[axis] + (pixel + 0.5) * step - self.boxes[tile, axis]) / self.boxes[tile, 2 + axis] - 0.5)
            / scale.seen_share
            + 0.5
            for axis, pixel in enumerate((x_px, y_px))
        )
        values = cells_at(cells, which, x, y)
        both = (shares + share(values, low=scale.cells[0], high=scale.cells[1])) / 2
        return np.where(np.isnan(values), shares, both)


def png(picture: Rgba) -> bytes:
    """RGBA [h, w, 4] as PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"picture of {list(picture.shape)}: could not be encoded as PNG")
    return bytes(data)


@lru_cache(maxsize=64)
def transparent(shown: Size) -> bytes:
    """A PNG of this width and height in which nothing is seen."""
    return png(np.zeros((shown[1], shown[0], 4), np.uint8))


def own_scale(table: HeatTable) -> HeatScale:
    """A scale from a slide's own scores, where no calibration is known: from their median, as calibrations do."""
    if not len(table.sorted_scores):
        return HeatScale(0.0, 1.0)
    median, p99 = (float(q) for q in np.quantile(table.sorted_scores, [0.5, 0.99]))
    return HeatScale(median, median + 1.5 * (p99 - median))


def _windows(boxes: npt.NDArray[np.int64], step: int, shown: Size) -> npt.NDArray[np.int64]:
    """[n, 4] x0, y0, x1, y1 in pixels of the picture, ends excluded, as `reports.heatmap.tile_windows` has them."""
    begins, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    first, last = (-((step - 2 * edge) // (2 * step)) for edge in (begins, ends))
    centre = (begins + ends) // (2 * step)
    small = last <= first
    first, last = np.where(small, centre, first), np.where(small, centre + 1, last)
    return np.concatenate([np.clip(first, 0, shown), np.clip(last, 0, shown)], axis=1)


def _paint(
    canvas: npt.NDArray[np.int64], windows: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    sides = windows[:, 2:] - windows[:, :2]
    if len(windows) and sides.max() <= 1:  # all of one pixel at most: at once
        there = sides.min(axis=1) > 0
        canvas[windows[there, 1], windows[there, 0]] = values[there]
        return canvas
    for (x0, y0, x1, y1), value in zip(windows.tolist(), values.tolist(), strict=True):
        canvas[y0:y1, x0:x1] = value
    return canvas


def _hatched(picture: Rgba, bad: npt.NDArray[np.bool_], corner: npt.NDArray[np.int64]) -> Rgba:
    """The picture with unreadable tiles; stripes go on in the next picture of the level."""
    y, x = np.ogrid[: bad.shape[0], : bad.shape[1]]
    stripe = (x + y + int(corner.sum())) % STRIPE_PX < STRIPE_PX // 3
    picture[bad] = (255, 255, 255, 255)
    picture[bad & stripe] = (0, 0, 0, 255)
    inner = cv2.erode(bad.astype(np.uint8), np.ones((2 * RING_PX + 1, 2 * RING_PX + 1), np.uint8)) > 0
    picture[bad & ~inner] = _RING
    return picture


def _column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    return np.asarray(table[name].to_numpy(zero_copy_only=False), np.int64)
