"""What the methods of a slide's score need to know of normal tiles: a ceiling, p-values, a threshold, sizes.

All of it is of the calibration's normal slides, and each slide counts the same in it, however large: one slide moves
any of its shares by 1 / n at most (see the head of `decisions.aggregation` for what that does to the false-alarm rate).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from uadray.config import Config
from uadray.decisions.neighbourhoods import Scores, Squares
from uadray.decisions.size_curve import SizeCurve

CEILING_DEVIATIONS = 2.5
"""The ceiling lies so many deviations above the mean of normal tiles. 2 and 3 do the same, 1.5 costs a fifth of the
small lesions that are called; without one, detectors with a heavy tail lose some."""

TAILS = tuple(np.geomspace(0.5, 1e-4, 61).tolist())
"""Shares of normal squares above each of the `tail_scores`; p-values between them are interpolated."""


class TileReference(Config):
    """Of normal squares (see `decisions.neighbourhoods`), each slide counting the same.

    Attributes:
        ceiling: what a score counts for at most in `grow`; None without.
        tail_scores: the score above which the share `TAILS[i]` of normal squares lies, ascending; none where the
            method asks for none.
        size_curve: how a normal slide's score goes with its size; None where it is left as it is.
    """

    ceiling: FiniteFloat | None = None
    tail_scores: tuple[FiniteFloat, ...] = Field(default=(), max_length=len(TAILS))
    size_curve: SizeCurve | None = None

    @model_validator(mode="after")
    def _tail_ascends(self) -> "TileReference":
        if len(self.tail_scores) not in (0, len(TAILS)):
            raise ValueError(f"tail_scores must be none or {len(TAILS)}")
        if any(low > high for low, high in pairwise(self.tail_scores)):
            raise ValueError("tail_scores must be in ascending order")
        return self

    @property
    def bound(self) -> float:
        """`ceiling`, or infinity where there is none."""
        return math.inf if self.ceiling is None else self.ceiling

    def p_values(self, scores: Scores) -> Scores:
        """The share of normal squares that score as much as each of these, [n].

        It is exact to the grid of `TAILS` from 0.0001 to 0.5, and within these bounds elsewhere.
        """
        values = np.asarray(self.tail_scores)
        return np.asarray(np.exp(np.interp(scores, values, np.log(TAILS))))

    def score_at(self, tail: float) -> float:
        """The score above which this share of normal squares lies, from 0.0001 to 0.5."""
        return float(np.interp(-math.log(tail), -np.log(TAILS), self.tail_scores))


NO_REFERENCE = TileReference()
"""For methods that need to know nothing of normal tiles."""


def ceiling_of(normals: Sequence[Squares]) -> float:
    """`CEILING_DEVIATIONS` above the mean score of normal slides; each slide counts the same, however large."""
    mean = float(np.mean([slide.score.mean() for slide in normals]))
    variance = float(np.mean([((slide.score - mean) ** 2).mean() for slide in normals]))
    return mean + CEILING_DEVIATIONS * math.sqrt(variance)


def tail_scores_of(normals: Sequence[Squares]) -> tuple[float, ...]:
    """`tail_scores` of normal slides; each slide counts the same, however large."""
    scores = np.concatenate([slide.score for slide in normals])
    weight = np.concatenate([np.full(len(slide.score), 1 / len(slide.score)) for slide in normals]) / len(normals)
    order = np.argsort(scores)
    return tuple(np.interp(1 - np.array(TAILS), np.cumsum(weight[order]), scores[order]).tolist())
