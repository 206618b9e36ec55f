"""A slide score against normal slides: conformal p-value, threshold, and the false-alarm rate that can be stated.

Conformal p-value of a slide score s against n normal slides (Vovk et al. 2005, ch. 2; Bates et al. 2023, "Testing for
outliers with conformal p-values", eq. 1): p = (1 + #{s_i >= s}) / (n + 1). If the slide is normal and exchangeable
with the calibration slides, P(p <= alpha) <= alpha, whatever the distribution of the scores.

Slides of one patient are alike, and not exchangeable with those of others: n counts patients. One slide of each is
taken, without a look at its score ("single subsampling" in Dunn, Wasserman and Ramdas, arXiv 1809.07441); the claim
then holds for any one slide of a patient who is not among them.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

from pydantic import Field, FiniteFloat, model_validator

from uadray.config import Config
from uadray.decisions.aggregation import AggregationConfig
from uadray.errors import InputError
from uadray.provenance import fingerprint
from uadray.slides.identity import Seen

MAX_NAME = 200
"""Letters of the name of a site, scanner or stain that a calibration keeps."""


class NormalSlide(Config):
    """What a calibration keeps of one of its slides besides the score: where it is from, and its `slide_measures`."""

    site: str | None = Field(default=None, max_length=MAX_NAME)
    scanner: str | None = Field(default=None, max_length=MAX_NAME)
    stain: str | None = Field(default=None, max_length=MAX_NAME)
    tile_score_median: FiniteFloat | None = None
    saturation: FiniteFloat | None = None
    green: FiniteFloat | None = None
    focus: FiniteFloat | None = None
    tissue_share: FiniteFloat | None = None


class Calibration(Config):
    """`calibration.json` of a bundle.

    Attributes:
        id: names this calibration in decisions.
        bundle_id: the bundle whose scores these are.
        aggregation: how they were made; screening uses the same.
        alpha: the stated false-alarm rate: at most this share of normal slides is called anomalous.
        scores: of the normal slides, one a patient, ascending.
        slides: marks of all slides that were scored for it (`slides.identity`), sorted. A screening notes when it
            meets such a slide again: its own score is among those that it is compared with.
        salt: with which these marks were made.
        tile_median: median score of all their tiles; the pale end of a heatmap.
        tile_p99: 99 % of their tiles score less; a heatmap rings the tiles above it.
        tile_high: the dark end of a heatmap.
        tile_ceiling: what a tile's score counts for at most in `grow`; None with the other methods.
        tile_quantiles: quantiles of their tiles' scores, evenly spaced from 0 to 100 %, ascending; none in
            calibrations of older versions.
        cell_median: median of their tiles' smoothed cells, where the detector gives any; a heatmap's pale end of cells.
        cell_p99: 99 % of these cells are below it.
        cell_high: a heatmap's dark end of cells.
        made: when, as `provenance.now_iso` writes it; empty in calibrations of older versions.
        normals: of each slide whose score is in `scores`, in no order that tells which; none in older versions.
    """

    id: str
    bundle_id: str
    aggregation: AggregationConfig
    alpha: float = Field(gt=0, lt=1)
    scores: tuple[FiniteFloat, ...] = Field(min_length=1)
    slides: tuple[str, ...] = ()
    salt: str = ""
    tile_median: FiniteFloat
    tile_p99: FiniteFloat
    tile_high: FiniteFloat
    tile_ceiling: FiniteFloat | None = None
    tile_quantiles: tuple[FiniteFloat, ...] = Field(default=(), max_length=1001)
    cell_median: FiniteFloat | None = None
    cell_p99: FiniteFloat | None = None
    cell_high: FiniteFloat | None = None
    made: str = Field(default="", max_length=40)
    normals: tuple[NormalSlide, ...] = ()

    @model_validator(mode="after")
    def _has_ceiling(self) -> "Calibration":
        if self.aggregation.method == "grow" and self.tile_ceiling is None:
            raise ValueError("slide scores by `grow` need a tile_ceiling")
        return self

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> "Calibration":
        if len(self.tile_quantiles) == 1 or any(low > high for low, high in pairwise(self.tile_quantiles)):
            raise ValueError("tile_quantiles must be none, or two at least in ascending order")
        return self

    @property
    def ceiling(self) -> float:
        """`tile_ceiling`, or infinity where there is none."""
        return math.inf if self.tile_ceiling is None else self.tile_ceiling

    @property
    def cell_scale(self) -> tuple[float, float] | None:
        """The ends of a heatmap of cells; None where no cells were calibrated."""
        return None if self.cell_median is None or self.cell_high is None else (self.cell_median, self.cell_high)

    @property
    def seen(self) -> Seen:
        """The slides that it was made of."""
        return Seen(self.salt, frozenset(self.slides))


def p_value(score: float, calibration_scores: tuple[float, ...]) -> float:
    """Conformal p-value; the smallest that n slides can give is 1 / (n + 1).

    >>> p_value(5.0, (1.0, 2.0, 3.0))
    0.25
    """
    n = len(calibration_scores)
    return (1 + sum(s >= score for s in calibration_scores)) / (n + 1)


def threshold(calibration: Calibration) -> float:
    """The slide score above which, and only above which, a slide is anomalous (p <= alpha).

    It is the k-th highest calibration score, with k = floor(alpha * (n + 1)).
    """
    scores = sorted(calibration.scores, reverse=True)
    return scores[_rank(calibration.alpha, len(scores)) - 1]


def one_a_patient(patients: Mapping[str, tuple[str, str]]) -> list[str]:
    """One slide id of each patient, chosen by a hash of the ids: the same every time, whatever the scores are.

    Args:
        patients: slide id -> patient.
    """
    first: dict[tuple[str, str], str] = {}
    for slide_id in sorted(patients, key=lambda slide_id: (fingerprint([slide_id]), slide_id)):
        first.setdefault(patients[slide_id], slide_id)
    return sorted(first.values())


def check_alpha(alpha: float, n_slides: int) -> None:
    """Refuse an alpha that no slide could reach: n normal slides, one a patient, give no p-value below 1 / (n + 1).

    Raises:
        InputError: with the number of slides that it would take.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha}: a false-alarm rate lies between 0 and 1")
    if _rank(alpha, n_slides) < 1:
        needed = math.ceil(round(1 / alpha, 9)) - 1
        raise InputError(
            f"alpha {alpha:g} needs at least {needed} normal slides that can be scored; there are {n_slides}, one a "
            f"patient, whose smallest p-value is {1 / (n_slides + 1):.3g}"
        )


def _rank(alpha: float, n: int) -> int:
    """The largest k with k / (n + 1) <= alpha, in the same floating-point terms as `p_value`."""
    k = math.floor(alpha * (n + 1)) + 1
    while k / (n + 1) > alpha:
        k -= 1
    return k
