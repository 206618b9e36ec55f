"""The cells of tiles: a small map of each, that says where in the tile its score comes from.

They are kept for every tile of a slide, so they are few, and their numbers are rounded to what a picture shows.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.schemas import CELLS

MOST = 6
"""Cells along a side of a tile at most: 36 take about 70 bytes a tile in a Parquet file."""

Cells = npt.NDArray[np.float32]
"""[N, k, k], upper left first; a tile without cells has NaN."""

_DROPPED_BITS = 13
"""Of the 23 that a float32 has behind its point; the ten left are as many as a float16 has, over a wider range."""


def area_means(n: int, k: int) -> Cells:
    """Weights [k, n] that make k cells of n numbers in a row, each the mean over its share of them.

    >>> area_means(3, 2).round(3).tolist()
    [[0.6669999957084656, 0.3330000042915344, 0.0], [0.0, 0.3330000042915344, 0.6669999957084656]]
    """
    edges, numbers = np.arange(k + 1)[:, None] * (n / k), np.arange(n)
    covered = np.minimum(edges[1:], numbers + 1) - np.maximum(edges[:-1], numbers)
    return np.asarray(np.clip(covered, 0, None) * (k / n), np.float32)


def fewer(cells: Cells, k: int) -> Cells:
    """Cells [N, k, k] of the means over areas of more of them, [N, n, n]."""
    weights = area_means(cells.shape[1], k)
    return np.asarray(weights @ cells @ weights.T, np.float32)


def smoothed(cells: Cells) -> Cells:
    """Each cell averaged with its neighbours in the tile, weighted 1, 2, 1 along both sides: as people are shown cells.

    A single cell is noise for the most part (DECISIONS.md has its figures).
    """
    k = cells.shape[1]
    neighbours = np.clip(np.arange(k)[:, None] + (-1, 0, 1), 0, k - 1)
    weights = np.zeros((k, k), np.float32)
    np.add.at(weights, (np.arange(k)[:, None], neighbours), np.array([0.25, 0.5, 0.25], np.float32))
    return np.asarray(weights @ cells @ weights.T, np.float32)


def with_cells(tiles: pa.Table, cells: Cells) -> pa.Table:
    """The table with the column `CELLS`: null for a tile of which a cell is no finite number."""
    n, k, _ = cells.shape
    numbers = _rounded(cells).reshape(n, k * k)
    is_bad = ~np.isfinite(numbers).all(axis=1)
    ends = np.arange(n + 1, dtype=np.int32) * (k * k)
    lists = pa.ListArray.from_arrays(ends, pa.array(numbers.ravel()), type=CELLS.type, mask=pa.array(is_bad))
    return tiles.append_column(CELLS, lists)


def cells_of(tiles: pa.Table) -> Cells | None:
    """The cells of a table's tiles; None where no tile has any, as of a detector that gives none."""
    if CELLS.name not in tiles.column_names:
        return None
    lists = tiles[CELLS.name].combine_chunks()
    has = lists.is_valid().to_numpy(zero_copy_only=False)
    if not has.any():
        return None
    numbers = lists.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(int(has.sum()), -1)
    k = round(numbers.shape[1] ** 0.5)
    cells = np.full((len(has), k, k), np.nan, np.float32)
    cells[has] = numbers.reshape(-1, k, k)
    return cells


def without_cells(tiles: pa.Table) -> pa.Table:
    """The table without the column `CELLS`, for those who have no use for it."""
    return tiles.drop_columns([CELLS.name]) if CELLS.name in tiles.column_names else tiles


def _rounded(cells: Cells) -> Cells:
    """Numbers whose last bits are zero: a file of them is half as large."""
    half, kept = np.uint32(1 << (_DROPPED_BITS - 1)), np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF)
    bits = np.ascontiguousarray(cells, np.float32).view(np.uint32)
    return np.asarray(np.where(np.isfinite(cells), ((bits + half) & kept).view(np.float32), np.nan), np.float32)
