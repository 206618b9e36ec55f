"""What the methods of a slide's score need to know of normal tiles: a ceiling, p-values, a threshold, sizes.

All of it is of the calibration's normal slides, and each slide counts the same in it, however large: one slide moves
any of its shares by 1 / n at most (see the head of `decisions.aggregation` for what that does to the false-alarm rate).
"""

import math
from collections.abc import Sequence

import numpy as np
from pydantic import FiniteFloat

from uadray.config import Config
from uadray.decisions.neighbourhoods import Scores, Squares
from uadray.decisions.size_curve import SizeCurve
from uadray.decisions.tile_tail import TileTail

CEILING_DEVIATIONS = 2.5
"""The ceiling lies so many deviations above the mean of normal tiles. 2 and 3 do the same, 1.5 costs a fifth of the
small lesions that are called; without one, detectors with a heavy tail lose some."""


class TileReference(Config):
    """Of normal squares (see `decisions.neighbourhoods`), each slide counting the same.

    Attributes:
        ceiling: what a score counts for at most in `grow`; None with the other methods.
        tail: scores of squares, where the method asks for p-values or a threshold.
        size_curve: how a normal slide's score goes with its size; None where it is left as it is.
    """

    ceiling: FiniteFloat | None = None
    tail: TileTail | None = None
    size_curve: SizeCurve | None = None

    @property
    def bound(self) -> float:
        """`ceiling`, or infinity where there is none."""
        return math.inf if self.ceiling is None else self.ceiling

    def shares_above(self, scores: Scores) -> Scores:
        """The share of normal squares that score as high as each of these, [n], above 0.

        Unlike `TileTail.p_values` it is interpolated between the scores that are kept (its logarithm is), so that a
        higher score has a lower share, up to the highest score of all.
        """
        tail = self._tail
        return np.asarray(np.exp(np.interp(scores, tail.scores, np.log(tail.above))))

    def score_at(self, share: float) -> float:
        """The score that this share of normal squares reaches."""
        tail = self._tail
        return float(np.interp(-math.log(share), -np.log(tail.above), tail.scores))

    @property
    def _tail(self) -> TileTail:
        if self.tail is None:
            raise ValueError("a score by p-values or by a threshold needs the tail of normal squares")
        return self.tail


NO_REFERENCE = TileReference()
"""For methods that need to know nothing of normal tiles."""


def ceiling_of(normals: Sequence[Squares]) -> float:
    """`CEILING_DEVIATIONS` above the mean score of normal slides; each slide counts the same, however large."""
    mean = float(np.mean([slide.score.mean() for slide in normals]))
    variance = float(np.mean([((slide.score - mean) ** 2).mean() for slide in normals]))
    return mean + CEILING_DEVIATIONS * math.sqrt(variance)
