"""Simulated normal slides of any size, as squares whose neighbours are alike."""

import numpy as np
from scipy import ndimage

from uadray.decisions.neighbourhoods import SQUARE_UM, Squares

BETWEEN, CORRELATION, LENGTH = 0.3, 0.5, 1.0
"""Deviation of slides' means; the share of the variance within slides that is smooth, and over how many squares."""


def normal_slide(n_squares: int, rng: np.random.Generator, *, between: float = BETWEEN) -> Squares:
    """A blob of so many squares; scores have a variance of 1 within slides."""
    side = int(np.ceil(np.sqrt(n_squares) * 1.3))
    white, smooth = (rng.standard_normal((side + 8, side + 8)) for _ in range(2))
    smooth = ndimage.gaussian_filter(smooth, LENGTH) * np.sqrt(4 * np.pi) * LENGTH
    score = np.sqrt(1 - CORRELATION) * white + np.sqrt(CORRELATION) * smooth + between * rng.standard_normal()
    y, x = np.mgrid[:side, :side] - side / 2
    outline = 1 + 0.2 * np.cos(2 * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))
    inside = np.sort(np.argsort((np.hypot(y, x) / outline).ravel())[:n_squares])
    row, column = np.unravel_index(inside, (side, side))
    return Squares(row - row.min(), column - column.min(), score[4 + row, 4 + column], SQUARE_UM)


def with_lesion(squares: Squares, n_squares: int, rng: np.random.Generator, *, height: float = 1.7) -> Squares:
    """The slide with a ragged lesion: so many squares around one of them score higher."""
    centre = int(rng.integers(len(squares.score)))
    distance = (squares.row - squares.row[centre]) ** 2 + (squares.column - squares.column[centre]) ** 2
    score = squares.score.copy()
    score[np.argsort(distance + rng.uniform(0, 4, len(score)))[:n_squares]] += height
    return squares._replace(score=score)


def sizes(n_slides: int, rng: np.random.Generator, *, low: int = 50, high: int = 5000) -> list[int]:
    """Numbers of squares, evenly spread over their logarithm."""
    return [int(n) for n in np.exp(rng.uniform(np.log(low), np.log(high), n_slides))]
