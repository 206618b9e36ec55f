"""The cells of a tile as a picture: smooth from one cell's middle to the next, for a heatmap and for evidence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uadray.reports.colours import tint
from uadray.reports.pictures import Image, pale_grey
from uadray.tiles.cells import Cells, smoothed


def over_tile(tile: Image, cells: NDArray[np.float32], *, low: float, high: float) -> Image:
    """A tile in light grey under the colours of its smoothed cells [k, k]: where in the tile its score is from.

    Args:
        tile: what the detector looked at, uint8 [h, w, 3].
        cells: of that tile.
        low: the number at the pale end of the scale.
        high: the number at the dark end.
    """
    height, width = tile.shape[:2]
    y, x = (np.indices((height, width)) + 0.5) / np.array([height, width]).reshape(2, 1, 1)
    return tint(
        pale_grey(tile), cells_at(smoothed(cells[None]), np.zeros((height, width), np.int64), x, y), low=low, high=high
    )


def cells_at(cells: Cells, tile: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float32]:
    """The values of cells at points of tiles, interpolated between the cells' middles; beyond the outer ones, theirs.

    Args:
        cells: [N, k, k].
        tile: of each point, which of the N.
        x: from 0 at the left edge of the tile's cells to 1 at their right edge.
        y: from 0 at the upper edge to 1 at the lower.
    """
    k = cells.shape[1]
    (left, right, to_right), (upper, lower, down) = (_neighbours(at, k) for at in (x, y))
    values, first = cells.ravel(), tile * (k * k)  # flat indices: a third of the time
    upper, lower = first + upper * k, first + lower * k
    above = values[upper + left] * (1 - to_right) + values[upper + right] * to_right
    below = values[lower + left] * (1 - to_right) + values[lower + right] * to_right
    return np.asarray(above * (1 - down) + below * down, dtype=np.float32)


def _neighbours(at: NDArray[Any], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Of points between 0 and 1, the two of k cells whose middles they lie between, and how far on the way."""
    place = np.clip(at.astype(np.float32) * k - 0.5, 0, k - 1)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, k - 1), place - first.astype(np.float32)
