"""Tile scores -> one score for the slide."""

import math

import numpy as np
import numpy.typing as npt
from pydantic import Field

from uadray.config import Config

Scores = npt.NDArray[np.float64]


class AggregationConfig(Config):
    """How tile scores become one slide score, and when a slide can be judged at all.

    Attributes:
        top_fraction: the slide score is the mean of this share of the highest tile scores, at least one tile.
        min_tiles: with fewer scored tiles a slide is `not_assessable`.
        min_coverage: with a smaller share of its tissue tiles scored a slide is `not_assessable`.
    """

    top_fraction: float = Field(default=0.3, gt=0, le=1)
    min_tiles: int = Field(default=8, ge=1)
    min_coverage: float = Field(default=0.9, ge=0, le=1)


def slide_score(scores: Scores, config: AggregationConfig) -> float:
    """Mean of the highest `top_fraction` of the tile scores [n], n >= 1.

    >>> slide_score(np.array([1.0, 2.0, 3.0, 4.0]), AggregationConfig(top_fraction=0.5))
    3.5
    """
    count = max(1, math.ceil(len(scores) * config.top_fraction))
    return float(np.sort(scores)[-count:].mean())
