"""Scored tiles -> squares on a grid, and what the neighbours of each square add to its score.

A lesion has a size in micrometres and not in tiles: the smallest micrometastasis measures 0.2 mm (AJCC Cancer Staging
Manual, 8th ed., breast), an area of 0.03 mm2. A *square* is therefore about 93 um wide, the side of a 96 px tile at
0.97 um/px: 3 x 3 squares span 0.28 mm, and four have that area. Tiles closer together than that are averaged in blocks,
each a square; tiles further apart are squares themselves, of which fewer make a neighbourhood, and from 0.19 mm on a
tile is its own.

Holes, flagged tiles, tiles without a score and what lies beyond the edge tell nothing: in a neighbourhood they count as
the mean of the slide's squares. Were they left out, means of few squares would vary more than others, and the highest
scores of a normal slide would be those beside holes (measured in DECISIONS.md).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

from uadray.tiles.spec import TileSpec

Scores = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

SQUARE_UM = 93.0
"""The side of a square; see the head of this file."""

ALONE_UM = 2 * SQUARE_UM
"""Squares of this side have no neighbours."""

GROWN_UM2 = 4 * SQUARE_UM**2
"""The area that `grown` takes together: four squares."""

MOST_GROWN = 8
"""The most squares of `grown`, reached where a square is two thirds of `SQUARE_UM` wide."""

DIFFUSION_STEPS = 4
"""Steps of `diffused`: a square's score has then spread by 1.8 squares (the root of 4 * 4 / 5), or 0.17 mm."""

AT_ONCE = 2**17
"""Squares that grow together, so that memory stays bounded."""


class Squares(NamedTuple):
    """The squares of a slide that have a score, in any order.

    Attributes:
        row: [n] on a grid without gaps; the first is 0.
        column: [n].
        score: [n], finite.
        side_um: distance of one square to the next.
    """

    row: Places
    column: Places
    score: Scores
    side_um: float


def squares_of(tiles: pa.Table, spec: TileSpec | None = None, *, block: int | None = None) -> Squares:
    """The squares of a slide: the mean of the scored tiles in each block.

    Args:
        tiles: `x_level0_px`, `y_level0_px`, `width_level0_px`, `height_level0_px` and `score`; at least one score.
        spec: how the tiles were cut; without it they are taken for squares, side by side.
        block: so many tiles make a side of a square, whatever it measures; None for squares of about `SQUARE_UM`.
    """
    tiles = tiles.filter(tiles["score"].is_valid())
    score = tiles["score"].to_numpy().astype(np.float64)
    step = spec.stride / spec.tile_px if spec else 1.0
    row, column = (_steps(tiles[f"{place}_level0_px"], tiles[f"{side}_level0_px"], step)
                   for place, side in (("y", "height"), ("x", "width")))  # fmt: skip
    stride_um = spec.stride * spec.mpp if spec else SQUARE_UM
    block = block or max(1, round(SQUARE_UM / stride_um))
    return _blocks(row, column, score, block, block * stride_um)


def smoothed(squares: Squares) -> Scores:
    """Each square's score averaged with its eight neighbours, [n]."""
    if squares.side_um >= ALONE_UM:
        return squares.score
    picture = _picture(squares, elsewhere=float(squares.score.mean()))
    return np.asarray(sliding_window_view(picture, (3, 3)).mean((2, 3))[squares.row, squares.column])


def diffused(squares: Squares) -> Scores:
    """Each square's score after `DIFFUSION_STEPS` of a lazy walk on the graph of squares that share a side, [n].

    In a step every square takes the mean of itself and its four neighbours; a neighbour that is not there gives the
    slide's mean. It is a step of the heat equation on the graph (Kondor and Lafferty 2002, "Diffusion kernels on
    graphs"). Unlike `smoothed` it looks beyond the nearest neighbours, and weighs them by how they are connected.
    """
    if squares.side_um >= ALONE_UM:
        return squares.score
    mean = float(squares.score.mean())
    picture = _picture(squares, elsewhere=mean)
    is_square = np.zeros(picture.shape, bool)
    is_square[squares.row + 1, squares.column + 1] = True
    for _ in range(DIFFUSION_STEPS):
        inner = picture[1:-1, 1:-1]
        around = picture[:-2, 1:-1] + picture[2:, 1:-1] + picture[1:-1, :-2] + picture[1:-1, 2:]
        picture[1:-1, 1:-1] = np.where(is_square[1:-1, 1:-1], (inner + around) / 5, mean)
    return np.asarray(picture[squares.row + 1, squares.column + 1])


def grown(squares: Squares) -> Scores:
    """Mean of each square and the neighbours that it grows by, [n].

    The best of the squares above, below, left and right of those taken so far is taken next, until their area is
    `GROWN_UM2`. So the mean follows the outline of a small lesion, where a window would not.
    """
    n_taken = min(MOST_GROWN, max(1, round(GROWN_UM2 / squares.side_um**2)))
    picture = _picture(squares, elsewhere=-np.inf)
    flat, width, mean = picture.ravel(), picture.shape[1], float(squares.score.mean())
    place = (squares.row + 1) * width + squares.column + 1
    directions = np.array([1, -1, width, -width])
    parts = [_grow(flat, place[i : i + AT_ONCE], directions, n_taken, mean) for i in range(0, len(place), AT_ONCE)]
    return np.concatenate(parts)


def _picture(squares: Squares, *, elsewhere: float) -> Scores:
    """The scores as a picture [h + 2, w + 2], with `elsewhere` where there is no square and all around."""
    picture = np.full((squares.row.max() + 3, squares.column.max() + 3), elsewhere)
    picture[squares.row + 1, squares.column + 1] = squares.score
    return picture


def _steps(places: pa.ChunkedArray, sides: pa.ChunkedArray, step: float) -> Places:
    """Which row or column each tile is in.

    Level-0 pixels are rounded one by one (`tiles.grid`), so that a step is no whole number of them. It is taken from
    the mean side, and counted from each row to the next, where its error cannot add up.

    Args:
        places: first pixel of each tile.
        sides: length of each tile, in pixels.
        step: from one tile to the next, as a share of the side.
    """
    place = places.to_numpy()
    step_px = max(1.0, float(sides.to_numpy().mean()) * step)
    known, which = np.unique(place, return_inverse=True)
    first = round(float(known[0]) / step_px)
    return np.asarray(first + np.append(0, np.rint(np.diff(known) / step_px).astype(np.int64).cumsum())[which])


def _blocks(row: Places, column: Places, score: Scores, block: int, side_um: float) -> Squares:
    """The mean of the tiles in each block of `block` x `block`."""
    row, column = row // block, column // block
    row, column = row - row.min(), column - column.min()
    n_columns = int(column.max()) + 1
    place, which = np.unique(row * n_columns + column, return_inverse=True)
    mean = np.bincount(which, weights=score) / np.bincount(which)
    return Squares(place // n_columns, place % n_columns, mean, side_um)


def _grow(flat: Scores, place: Places, directions: Places, n_taken: int, mean: float) -> Scores:
    """What `grown` says of the squares at `place` in `flat`, where -inf is no square; `mean` is the slide's."""
    taken = place[:, None]
    total = flat[place]
    each = np.arange(len(place))
    for _ in range(n_taken - 1):
        around = (taken[:, :, None] + directions).reshape(len(place), -1)
        is_taken = (around[:, :, None] == taken[:, None, :]).any(2)
        scores = np.where(is_taken, -np.inf, flat[around])
        best = scores.argmax(1)
        found = np.isfinite(scores[each, best])
        total = total + np.where(found, scores[each, best], mean)
        taken = np.column_stack([taken, np.where(found, around[each, best], place)])
    return np.asarray(total / n_taken)
