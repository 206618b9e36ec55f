"""Scores of normal tiles, kept so that a tile's score becomes a p-value: finely where scores are high.

The distribution is that of a tile drawn at random from a normal slide drawn at random: each slide weighs the same,
however large. Of n slides with m_i tiles each, a tile weighs 1 / (n m_i), and such tiles are worth
n_eff = n^2 / sum(1 / m_i) equal ones (Kish, Survey Sampling, 1965, 11.7). p = (1 + n_eff S) / (n_eff + 1), where S is
the weighted share of normal tiles that score as high: no tile is rarer than 1 in n_eff + 1.

What these p-values are not: those of the tiles of one slide are not independent, and the far tail is that of n slides,
which may be few. No slide is called by them; a slide's score may be made of them (`aggregation`), and is then compared
with scores of normal slides that were made likewise.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, model_validator

from uadray.config import Config

Floats = npt.NDArray[np.float64]

MAX_KNOTS = 1024

STEP, RATIO, TURN = 0.01, 0.95, 0.2
"""Shares from 1 down to `TURN` are kept in these steps; below it each is this part of the one before. A p-value is 5 %
too high at most."""


class TileTail(Config):
    """How many normal tiles score at least so much.

    Attributes:
        n_effective: of how many tiles, see the head of this file.
        scores: ascending; the first and the last are the least and the greatest of all.
        above: for each the weighted share of tiles that score as high or higher, from 1 downwards.
    """

    n_effective: float = Field(ge=1, le=1e15)
    scores: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=MAX_KNOTS)
    above: tuple[Annotated[float, Field(gt=0, le=1 + 1e-9)], ...] = Field(min_length=1, max_length=MAX_KNOTS)

    @model_validator(mode="after")
    def _is_a_distribution(self) -> "TileTail":
        if len(self.scores) != len(self.above):
            raise ValueError("scores and above must be of one length")
        if any(low >= high for low, high in pairwise(self.scores)):
            raise ValueError("scores must ascend")
        if any(high <= low for high, low in pairwise(self.above)):
            raise ValueError("above must descend")
        return self

    def p_values(self, scores: Floats) -> Floats:
        """The p-value of each tile, of any shape; NaN of a tile without a score.

        Between two scores that are kept, that of the lower one: never less than counting all tiles would give.
        """
        shares = np.concatenate([[1.0], self.above])
        place = np.searchsorted(self.scores, scores, side="right")
        share = np.where(scores > self.scores[-1], 0.0, np.minimum(shares[place], 1.0))
        p = (1 + self.n_effective * share) / (self.n_effective + 1)
        return np.asarray(np.where(np.isnan(scores), np.nan, p), dtype=np.float64)


def tile_tail_of(slides: Sequence[Floats]) -> TileTail:
    """The tail of normal slides.

    >>> tail = tile_tail_of([np.array([1.0, 2.0]), np.array([1.0, 1.0, 1.0, 3.0])])
    >>> tail.scores, tail.above
    ((1.0, 2.0, 3.0), (1.0, 0.375, 0.125))

    Args:
        slides: the tile scores of each, finite, at least one each.
    """
    sizes = np.array([len(slide) for slide in slides])
    n_effective = len(slides) ** 2 / float((1 / sizes).sum())
    values, which = np.unique(np.concatenate(slides), return_inverse=True)
    weight = np.bincount(which.ravel(), weights=np.repeat(1 / (len(slides) * sizes), sizes))
    above = np.cumsum(weight[::-1])[::-1]
    kept = np.unique(np.searchsorted(-above, -_shares(n_effective), side="right") - 1)
    kept = np.unique(np.concatenate([[0], kept[kept >= 0], [len(values) - 1]]))
    return TileTail(n_effective=n_effective, scores=tuple(values[kept].tolist()), above=tuple(above[kept].tolist()))


def _shares(n_effective: float) -> Floats:
    """The shares that are kept, ascending: of each the greatest score that so many tiles reach."""
    lowest = min(TURN, 0.5 / n_effective)
    bulk = np.arange(round(TURN / STEP), round(1 / STEP) + 1) * STEP
    n_tail = min(MAX_KNOTS - len(bulk) - 2, math.ceil(math.log(lowest / TURN) / math.log(RATIO)) + 1)
    return np.unique(np.concatenate([np.geomspace(lowest, TURN, n_tail), bulk]))
