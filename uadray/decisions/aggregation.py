"""Tile scores -> one score for the slide.

A lesion lies together: neighbouring tiles with raised scores say more than as many scattered ones. `smooth`, `grow`,
`graph` and `region` look at neighbourhoods (`decisions.neighbourhoods`), the others at single tiles. `top`, `smooth`,
`grow`, `graph`, `maximum` and `quantile` give a number on the scale of tile scores: where all tiles score the same and
below the ceiling, so does the slide. `fraction` gives a share of the slide, `region` an area in mm2, and
`higher_criticism` an excess of small p-values.

Some methods have to know normal tiles, `grow` for instance a ceiling for single scores, or one odd tile would look like
a lesion. They are the calibration's own tiles (`decisions.tile_reference`), since no other normal ones are at hand when
a bundle is calibrated. Split conformal prediction asks for a score that does not depend on the calibration's slides;
this one does, through numbers in which each slide counts the same, so that one slide moves them by 1 / n at most. Had
the slide that is judged been counted too, the false-alarm rate would hold exactly; what is missing is that 1 / n.
Simulated with `grow` (slides of 8 tiles, +- 0.001), the rate was 0.196, 0.098 and 0.033 with 4, 9 and 30 slides where
alpha allows 0.2, 0.1 and 0.032; with a ceiling known beforehand it was 0.200, 0.099 and 0.033. `top`, `smooth`,
`graph`, `maximum` and `quantile` have no such number unless they are brought to one size (`by_size`), and the rate
holds exactly.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from uadray.config import Config, parse_config
from uadray.decisions.higher_criticism import higher_criticism
from uadray.decisions.neighbourhoods import Squares, diffused, grown, smoothed, squares_of
from uadray.decisions.regions import largest_region
from uadray.decisions.size_curve import size_curve
from uadray.decisions.tile_reference import NO_REFERENCE, TileReference, ceiling_of
from uadray.decisions.tile_tail import tile_tail_of
from uadray.tiles.spec import TileSpec

Scores = npt.NDArray[np.float64]

Method = Literal["top", "smooth", "grow", "maximum", "quantile", "fraction", "region", "higher_criticism", "graph"]

METHODS: tuple[Method, ...] = get_args(Method)

METHOD: Method = "grow"
"""How new calibrations make slide scores unless told or chosen: it calls the most tumour slides (DECISIONS.md)."""

TOP_FRACTION: dict[str, float] = {"top": 0.3, "smooth": 0.1, "grow": 0.1, "graph": 0.1, "quantile": 0.1}
"""The share that new calibrations take with each method that takes one, unless told."""

WITH_TAIL = frozenset({"fraction", "region", "higher_criticism"})
"""Methods that read how high normal squares score."""

BY_LOGARITHM = frozenset({"fraction", "region"})
"""Methods whose scores are above 0 and skewed: sizes are told by their logarithm."""


class AggregationConfig(Config):
    """How tile scores become one slide score, and when a slide can be judged at all.

    A *square* is about 93 um wide, see `decisions.neighbourhoods`.

    Attributes:
        method: what is taken of the scores. `top`: the highest tiles. `smooth`: the highest of squares that are each
            averaged with their up to eight neighbours. `grow`: half as in `smooth`, half of each square averaged with
            the best three around it, and no score counts for more than a ceiling. `graph`: the highest squares after
            diffusion to neighbours and their neighbours. `maximum`: the highest square. `quantile`: the square that
            `top_fraction` of the squares reach. `fraction`: the share of squares above a threshold. `region`: the area
            of the largest connected region of such squares, in mm2. `higher_criticism`: the excess of small p-values
            of squares. Calibrations from before there was a choice have `top`.
        top_fraction: the slide score is the mean of this share of the highest, at least one, and with `quantile` the
            lowest of them. The other methods have none.
        tail: of `fraction` and `region`: this share of normal squares lies above their threshold.
        by_size: the score is brought to one size of slide, see `decisions.size_curve`.
        min_tiles: with fewer scored tiles a slide is `not_assessable`.
        min_coverage: with a smaller share of its tissue tiles scored a slide is `not_assessable`.
    """

    method: Method = "top"
    top_fraction: float = Field(default=0.3, gt=0, le=1)
    tail: float = Field(default=0.01, ge=1e-4, le=0.5)
    by_size: bool = False
    min_tiles: int = Field(default=8, ge=1)
    min_coverage: float = Field(default=0.9, ge=0, le=1)


def new_aggregation(method: str = METHOD, *, top_fraction: float | None = None) -> AggregationConfig:
    """What a new calibration uses.

    Raises:
        InputError: there is no such method, or no such share.
    """
    share = TOP_FRACTION.get(method, 1.0) if top_fraction is None else top_fraction
    values = {"method": method, "top_fraction": share, "by_size": True}
    return parse_config(AggregationConfig, values, source="a slide's score")


def slide_score(
    tiles: pa.Table, config: AggregationConfig, *, spec: TileSpec | None = None,
    reference: TileReference = NO_REFERENCE,
) -> float:  # fmt: skip
    """The score of a slide. Tiles without a score (flagged, not readable) do not count, and are no zeros.

    >>> tiles = pa.table({"score": [1.0, 2.0, None, 3.0, 4.0]})
    >>> slide_score(tiles, AggregationConfig(top_fraction=0.5))
    3.5

    Args:
        tiles: rows of `TILE_SCORES`, in any order; at least one has a score. `top` reads `score` alone.
        config: how.
        spec: how the tiles were cut, see `squares_of`.
        reference: what is known of normal tiles, see `reference_of`.
    """
    return score_of(scored_squares(tiles, config, spec=spec), config, reference=reference)


def scored_squares(tiles: pa.Table, config: AggregationConfig, *, spec: TileSpec | None = None) -> Squares:
    """What `config.method` looks at: the squares of a slide, or for `top` its tiles, as if each was a square.

    Where `top` is not brought to one size, its tiles come without their places.
    """
    if config.method != "top":
        return squares_of(tiles, spec)
    if config.by_size:
        return squares_of(tiles, spec, block=1)
    nowhere = np.empty(0, np.int64)
    return Squares(nowhere, nowhere, tiles["score"].drop_null().to_numpy(), math.nan)


def score_of(squares: Squares, config: AggregationConfig, *, reference: TileReference = NO_REFERENCE) -> float:
    """`slide_score` of the slide with these `scored_squares`."""
    score, curve = _score(squares, config, reference), reference.size_curve
    if curve is None or not config.by_size:
        return score
    if config.method not in BY_LOGARITHM:
        return curve.adjusted(score, len(squares.score))
    return math.exp(curve.adjusted(math.log(score), len(squares.score)))


def reference_of(normals: Sequence[Squares], config: AggregationConfig) -> TileReference:
    """What `config` needs to know of normal slides, from their `scored_squares`."""
    plain = TileReference(
        ceiling=ceiling_of(normals) if config.method == "grow" else None,
        tail=tile_tail_of([each.score for each in normals]) if config.method in WITH_TAIL else None,
    )
    if not config.by_size:
        return plain
    scale = math.log if config.method in BY_LOGARITHM else float
    curve = size_curve(normals, lambda each: scale(_score(each, config, plain)))
    return plain.model_copy(update={"size_curve": curve})


def _score(squares: Squares, config: AggregationConfig, reference: TileReference) -> float:
    """The score of the slide as large as it is."""
    share = config.top_fraction
    match config.method:
        case "top":
            return _highest(squares.score, share)
        case "smooth":
            return _highest(smoothed(squares), share)
        case "grow":
            bounded = squares._replace(score=np.minimum(squares.score, reference.bound))
            return (_highest(smoothed(bounded), share) + _highest(grown(bounded), share)) / 2
        case "graph":
            return _highest(diffused(squares), share)
        case "maximum":
            return float(squares.score.max())
        case "quantile":
            return float(np.sort(squares.score)[-_count(len(squares.score), share)])
        case "fraction":
            return _fraction(squares, reference, config.tail)
        case "region":
            return _region(squares, reference, config.tail)
        case "higher_criticism":
            p = reference.shares_above(squares.score)
            return higher_criticism(p) / math.sqrt(len(p))


def _fraction(squares: Squares, reference: TileReference, tail: float) -> float:
    """The share of squares above the threshold.

    Small slides often have the same number of them. The highest score breaks such ties: it adds less than one square.
    """
    n_above = int((squares.score > reference.score_at(tail)).sum())
    highest = 1 - float(reference.shares_above(squares.score.max(keepdims=True))[0]) / 2
    return (n_above + highest) / len(squares.score)


def _region(squares: Squares, reference: TileReference, tail: float) -> float:
    """The area of the largest region above the threshold, in mm2.

    Areas are whole squares, and often the same. How far the region lies in the tail breaks ties, from 0 at the
    threshold to 1 square; where no square is above the threshold it is how near to the threshold the highest comes.
    """
    region = largest_region(squares, reference.score_at(tail))
    scores = squares.score[region] if len(region) else squares.score.max(keepdims=True)
    p = reference.shares_above(scores)
    more = float((1 - p / tail).mean()) if len(region) else 1 - float(p[0]) / 2
    return (len(region) + min(max(more, 0.0), 1.0)) * (squares.side_um / 1000) ** 2


def _highest(scores: Scores, share: float) -> float:
    """Mean of this share of the highest of the scores [n], at least of one."""
    return float(np.sort(scores)[-_count(len(scores), share) :].mean())


def _count(n: int, share: float) -> int:
    return max(1, math.ceil(n * share))
