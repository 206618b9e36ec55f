"""Tile scores -> one score for the slide.

A lesion lies together: neighbouring tiles with raised scores say more than as many scattered ones. `smooth` and `grow`
look at neighbourhoods (`decisions.neighbourhoods`), `top` at the tiles alone. All three give a number on the scale of
tile scores: where all tiles score the same and below the ceiling, so does the slide.

`grow` has a ceiling for single scores, or one odd tile would look like a lesion. It is that of the calibration's own
tiles, since no other normal tiles are at hand when a bundle is calibrated. Split conformal prediction asks for a score
that does not depend on the calibration's slides; this one does, through a single number in which each slide counts the
same, so that one slide moves it by 1 / n at most. Had the slide that is judged been counted too, the false-alarm rate
would hold exactly; what is missing is that 1 / n of the ceiling. Simulated (slides of 8 tiles, +- 0.001), the rate was
0.196, 0.098 and 0.033 with 4, 9 and 30 slides where alpha allows 0.2, 0.1 and 0.032; with a ceiling known beforehand it
was 0.200, 0.099 and 0.033. `top` and `smooth` have no such number, and the rate holds exactly.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from uadray.config import Config, parse_config
from uadray.decisions.neighbourhoods import Squares, grown, smoothed, squares_of
from uadray.tiles.spec import TileSpec

Scores = npt.NDArray[np.float64]

Method = Literal["top", "smooth", "grow"]

METHOD: Method = "grow"
"""How new calibrations make slide scores: of the three it calls the most tumour slides (DECISIONS.md)."""

TOP_FRACTION: dict[str, float] = {"top": 0.3, "smooth": 0.1, "grow": 0.1}
"""The share that new calibrations take with each method unless told."""

CEILING_DEVIATIONS = 2.5
"""The ceiling lies so many deviations above the mean of normal tiles. 2 and 3 do the same, 1.5 costs a fifth of the
small lesions that are called; without one, detectors with a heavy tail lose some."""


class AggregationConfig(Config):
    """How tile scores become one slide score, and when a slide can be judged at all.

    Attributes:
        method: which scores the highest are taken of. `top`: of the tiles. `smooth`: of each square of 93 um, averaged
            with its up to eight neighbours. `grow`: half as in `smooth`, half of each square averaged with the best
            three around it, and no score counts for more than a ceiling. Calibrations from before there was a choice
            have `top`.
        top_fraction: the slide score is the mean of this share of the highest, at least one.
        min_tiles: with fewer scored tiles a slide is `not_assessable`.
        min_coverage: with a smaller share of its tissue tiles scored a slide is `not_assessable`.
    """

    method: Method = "top"
    top_fraction: float = Field(default=0.3, gt=0, le=1)
    min_tiles: int = Field(default=8, ge=1)
    min_coverage: float = Field(default=0.9, ge=0, le=1)


def new_aggregation(method: str = METHOD, *, top_fraction: float | None = None) -> AggregationConfig:
    """What a new calibration uses.

    Raises:
        InputError: there is no such method, or no such share.
    """
    share = TOP_FRACTION.get(method, 1.0) if top_fraction is None else top_fraction
    return parse_config(AggregationConfig, {"method": method, "top_fraction": share}, source="a slide's score")


def slide_score(
    tiles: pa.Table, config: AggregationConfig, *, spec: TileSpec | None = None, ceiling: float = math.inf
) -> float:
    """The score of a slide. Tiles without a score (flagged, not readable) do not count, and are no zeros.

    >>> tiles = pa.table({"score": [1.0, 2.0, None, 3.0, 4.0]})
    >>> slide_score(tiles, AggregationConfig(top_fraction=0.5))
    3.5

    Args:
        tiles: rows of `TILE_SCORES`, in any order; at least one has a score. `top` reads `score` alone.
        config: how.
        spec: how the tiles were cut, see `squares_of`.
        ceiling: of tile scores in `grow`, see `ceiling_of`; without it scores count as they are.
    """
    return score_of(scored_squares(tiles, config, spec=spec), config, ceiling=ceiling)


def scored_squares(tiles: pa.Table, config: AggregationConfig, *, spec: TileSpec | None = None) -> Squares:
    """What `config.method` looks at: the squares of a slide, or for `top` its tiles, without their places."""
    if config.method != "top":
        return squares_of(tiles, spec)
    nowhere = np.empty(0, np.int64)
    return Squares(nowhere, nowhere, tiles["score"].drop_null().to_numpy(), math.nan)


def score_of(squares: Squares, config: AggregationConfig, *, ceiling: float = math.inf) -> float:
    """`slide_score` of the slide with these `scored_squares`."""
    if config.method == "top":
        return _highest(squares.score, config.top_fraction)
    if config.method == "smooth":
        return _highest(smoothed(squares), config.top_fraction)
    bounded = squares._replace(score=np.minimum(squares.score, ceiling))
    return (_highest(smoothed(bounded), config.top_fraction) + _highest(grown(bounded), config.top_fraction)) / 2


def ceiling_of(normals: Sequence[Squares]) -> float:
    """`CEILING_DEVIATIONS` above the mean score of normal slides; each slide counts the same, however large."""
    mean = float(np.mean([slide.score.mean() for slide in normals]))
    variance = float(np.mean([((slide.score - mean) ** 2).mean() for slide in normals]))
    return mean + CEILING_DEVIATIONS * math.sqrt(variance)


def _highest(scores: Scores, share: float) -> float:
    """Mean of this share of the highest of the scores [n], at least of one."""
    count = max(1, math.ceil(len(scores) * share))
    return float(np.sort(scores)[-count:].mean())
