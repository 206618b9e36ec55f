"""How the score of a normal slide goes with the slide's size, and the score without that.

The highest tenth of fifty squares varies more than that of five thousand, and the maximum of many is higher than that
of few: under one threshold for all, small slides or large ones would be called more often. A curve is fitted to
connected windows of the calibration's own normal slides, which are smaller slides of the same tissue with the same
likeness of neighbours: the mean score at each size, and its deviation. A score is then moved and stretched to what it
would be had the slide as many squares as the median slide of the calibration, so that it keeps its unit.

Mean and deviation are brought to one size, and nothing else: the distributions of `fraction`, `region` and
`higher_criticism` have other shapes in small slides than in large ones, and few calibration slides leave the curve
rough (DECISIONS.md).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, model_validator

from uadray.config import Config
from uadray.decisions.neighbourhoods import Places, Squares

Floats = npt.NDArray[np.float64]

SMALLEST = 8
"""The smallest window, in squares; the next ones have twice as many each."""

WINDOWS = 8
"""The most windows of each size in each slide."""

MIN_SLIDES = 5
"""So many slides must have a size for the curve to reach there; beyond its ends it stays as it is there."""

MOST_SLIDES = 100
"""Slides that a curve is fitted to, so that calibrations of large archives stay quick."""


MIN_VARIANCE = 1e-9
"""Where scores of some size vary less, as a share of what they do at others, nothing can be told of them."""


class SizeCurve(Config):
    """Mean and deviation of normal slides' scores by their number of squares.

    Attributes:
        n_squares: sizes, ascending; in between it is interpolated over their logarithm.
        mean: score at each.
        deviation: at each; above 0.
        typical: the size that scores are brought to.
    """

    n_squares: tuple[float, ...] = Field(min_length=1, max_length=64)
    mean: tuple[FiniteFloat, ...]
    deviation: tuple[FiniteFloat, ...]
    typical: float = Field(gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "SizeCurve":
        if not len(self.n_squares) == len(self.mean) == len(self.deviation):
            raise ValueError("n_squares, mean and deviation must be of one length")
        if min(self.deviation) <= 0 or min(self.n_squares) <= 0 or any(np.diff(self.n_squares) <= 0):
            raise ValueError("deviation must be above 0, and n_squares above 0 and ascending")
        return self

    def at(self, n_squares: float) -> tuple[float, float]:
        """Mean and deviation of normal slides of this size."""
        place, sizes = math.log(n_squares), np.log(self.n_squares)
        return float(np.interp(place, sizes, self.mean)), float(np.interp(place, sizes, self.deviation))

    def adjusted(self, score: float, n_squares: int) -> float:
        """The score as if the slide had `typical` squares."""
        mean, deviation = self.at(n_squares)
        typical_mean, typical_deviation = self.at(self.typical)
        return typical_mean + (score - mean) * (typical_deviation / deviation)


def size_curve(normals: Sequence[Squares], score: Callable[[Squares], float]) -> SizeCurve | None:
    """The curve of a score over normal slides; None where too few slides or squares tell of one.

    Means: from each size to the next, the mean of the differences within those slides that have both (a slide that
    scores high does so at all sizes, and the larger sizes are of fewer slides). Windows of one slide have the same
    centres at all sizes. Variances: their logarithm is a parabola over that of the size, by least squares.
    """
    normals = [normals[i] for i in np.linspace(0, len(normals) - 1, min(len(normals), MOST_SLIDES)).astype(int)]
    largest = sorted((len(each.score) for each in normals), reverse=True)
    if len(normals) < MIN_SLIDES or largest[MIN_SLIDES - 1] < 2 * SMALLEST:
        return None
    n_sizes = 1 + int(math.log2(largest[MIN_SLIDES - 1] / SMALLEST))
    sizes = np.asarray(SMALLEST * 2.0 ** np.arange(n_sizes), np.float64)
    scores = _of_windows(normals, score, sizes)
    mean, place = _means(scores), np.log(sizes)
    residual = scores - mean[:, None]
    residual -= np.nanmean(residual)
    variances = _mean_of_known(residual**2)
    variance = np.nanmean(variances, 0)
    if variance.min() <= MIN_VARIANCE * variance.max():
        return None
    degree, weight = min(2, n_sizes - 1), np.sqrt(np.isfinite(variances).sum(0))
    fitted = np.exp(np.polynomial.Polynomial.fit(place, np.log(variance), degree, w=weight)(place))
    return SizeCurve(
        n_squares=tuple(sizes.tolist()), mean=tuple(mean.tolist()), deviation=tuple(np.sqrt(fitted).tolist()),
        typical=float(np.median(largest)),
    )  # fmt: skip


def window(squares: Squares, size: int, centre: int) -> Squares:
    """The `size` squares of a slide that are nearest to one of them."""
    distance = (squares.row - squares.row[centre]) ** 2 + (squares.column - squares.column[centre]) ** 2
    chosen: Places = np.sort(np.argpartition(distance, size - 1)[:size])
    row, column = squares.row[chosen], squares.column[chosen]
    return Squares(row - row.min(), column - column.min(), squares.score[chosen], squares.side_um)


def _of_windows(normals: Sequence[Squares], score: Callable[[Squares], float], sizes: Floats) -> Floats:
    """[slides, sizes, windows] the scores of windows, NaN where there is none.

    A slide has twice as many windows of a size as go into it side by side, `WINDOWS` at most, around the same centres
    at all sizes: how the score goes with the size is then told by the same places.
    """
    rng = np.random.default_rng(0)
    scores = np.full((len(normals), len(sizes), WINDOWS), np.nan)
    for i, squares in enumerate(normals):
        n_squares = len(squares.score)
        centres = rng.integers(n_squares, size=WINDOWS)
        for k, size in enumerate(sizes[sizes <= n_squares].astype(int).tolist()):
            for j, centre in enumerate(centres[: 2 * n_squares // size].tolist()):
                scores[i, k, j] = score(window(squares, size, centre))
    return scores


def _means(scores: Floats) -> Floats:
    """The mean at each size, from scores [slides, sizes, windows]."""
    steps = _mean_of_known(np.diff(scores, axis=1))
    return np.asarray(np.nanmean(scores[:, 0]) + np.append(0.0, np.nanmean(steps, 0).cumsum()))


def _mean_of_known(values: Floats) -> Floats:
    """The mean over the last axis of what is no NaN; NaN where all is."""
    known = np.isfinite(values)
    n_known = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    return np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)
