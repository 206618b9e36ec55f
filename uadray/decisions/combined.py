"""Scores of several bundles for one slide -> one p-value for the slide.

P-values of different bundles say much the same about a slide, and must not be multiplied. What holds:

1. A calibration of the combined score, where the same normal slides were scored by all bundles. The scores of each
   bundle are standardised (minus mean, over standard deviation), and combined by their maximum or mean. Mean and
   deviation are of the n normal slides *and* the slide that is judged: so the n + 1 combined scores come from one
   symmetric function of n + 1 exchangeable slides, are exchangeable themselves, and p = (1 + #{c_i >= c}) / (n + 1) has
   P(p <= alpha) <= alpha exactly (transductive conformal prediction; Vovk et al. 2005, 2.2). With mean and deviation of
   the normal slides alone this would be nearly so.
2. Otherwise the bundles' own p-values, merged so that nothing is asked of how they depend on each other: K times the
   least of K (Bonferroni), or twice their mean (Vovk and Wang, "Combining p-values via averaging", Biometrika 107:791,
   2020, Table 1). Which of the two is fixed beforehand: the least goes with `maximum`, the mean with `mean`. It costs a
   factor that a calibration does not.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, model_validator

from uadray.config import Config
from uadray.decisions.false_alarms import rank_of
from uadray.provenance import fingerprint

Floats = npt.NDArray[np.float64]

By = Literal["maximum", "mean"]
"""How the scores of several bundles are combined: `maximum` finds what one of them sees, `mean` what all see a bit."""

MERGED_BY: dict[By, str] = {"maximum": "Bonferroni", "mean": "twice the mean"}

AT_ONCE = 2**21
"""Numbers that are compared together, so that memory stays bounded."""


class CombinedCalibration(Config):
    """Scores of normal slides by several bundles, slide by slide.

    Attributes:
        id: names this calibration in decisions.
        bundle_ids: of the bundles, in the order of the scores.
        calibration_ids: with which the slides' scores were made.
        by: how scores are combined.
        alpha: the stated false-alarm rate.
        scores: of each normal slide, one a patient, its score by each bundle; sorted, so that the order tells nothing.
    """

    id: str = Field(max_length=200)
    bundle_ids: tuple[str, ...] = Field(min_length=2, max_length=100)
    calibration_ids: tuple[str, ...] = Field(min_length=2, max_length=100)
    by: By = "maximum"
    alpha: float = Field(gt=0, lt=1)
    scores: tuple[tuple[FiniteFloat, ...], ...] = Field(min_length=1, max_length=1_000_000)

    @model_validator(mode="after")
    def _one_of_each(self) -> "CombinedCalibration":
        k = len(self.bundle_ids)
        if len(self.calibration_ids) != k or any(len(each) != k for each in self.scores):
            raise ValueError(f"there are {k} bundles; each slide needs a score of each, and each bundle a calibration")
        return self


def combined_calibration(
    scores: Floats, *, bundle_ids: tuple[str, ...], calibration_ids: tuple[str, ...], by: By, alpha: float
) -> CombinedCalibration:  # fmt: skip
    """The calibration of these normal slides.

    Args:
        scores: [n, bundles], one slide a patient.
        bundle_ids: of the bundles.
        calibration_ids: with which the scores were made.
        by: how scores are combined.
        alpha: the stated false-alarm rate.
    """
    ordered = tuple(sorted(tuple(each) for each in scores.tolist()))
    name = fingerprint([*bundle_ids, *calibration_ids, by, repr(alpha), repr(ordered)])[:12]
    return CombinedCalibration(
        id=name, bundle_ids=bundle_ids, calibration_ids=calibration_ids, by=by, alpha=alpha, scores=ordered
    )


def combined_p_values(scores: Floats, calibration: CombinedCalibration) -> tuple[Floats, Floats, Floats]:
    """P-value, combined score and threshold of each slide, three times [m]; NaN of a slide without a score by each.

    A slide's p-value is at most alpha where, and only where, its score is above its threshold. Both are in standard
    deviations, of the normal slides and the slide itself; so the threshold differs a little from slide to slide, and
    with n slides no score is above sqrt(n).

    Args:
        scores: [m, bundles].
        calibration: of the same bundles.
    """
    normals = np.asarray(calibration.scores, np.float64)
    n, k = normals.shape
    rank = rank_of(calibration.alpha, n)
    p, combined, threshold = (np.full(len(scores), np.nan) for _ in range(3))
    places = np.flatnonzero(np.isfinite(scores).all(1))
    step = max(1, AT_ONCE // (n * k))
    for at in (places[first : first + step] for first in range(0, len(places), step)):
        own, of_normals = _standardised(scores[at], normals)
        c, cs = _combined(own, calibration.by), _combined(of_normals, calibration.by)
        p[at] = (1 + (cs >= c[:, None]).sum(1)) / (n + 1)
        combined[at] = c
        threshold[at] = np.partition(cs, n - rank, axis=1)[:, n - rank] if rank else np.inf
    return p, combined, threshold


def _standardised(scores: Floats, normals: Floats) -> tuple[Floats, Floats]:
    """Scores [m, k] of slides and [m, n, k] of the normal ones, by the mean and deviation of the n + 1 together.

    A bundle that scores all of them the same tells nothing: its scores are 0.
    """
    n = len(normals)
    centre, scale = normals.mean(0), np.maximum(normals.std(0), np.finfo(np.float64).tiny)
    x, y = (normals - centre) / scale, (scores - centre) / scale  # changes nothing but what rounding does
    mean = (x.sum(0) + y) / (n + 1)
    deviation = np.sqrt(np.maximum(((x**2).sum(0) + y**2) / (n + 1) - mean**2, 0.0))
    deviation = np.where(deviation > 0, deviation, 1.0)
    return (y - mean) / deviation, (x[None] - mean[:, None]) / deviation[:, None]


def _combined(standardised: Floats, by: By) -> Floats:
    return np.asarray(standardised.max(-1) if by == "maximum" else standardised.mean(-1))


def merged_p_values(p: Floats, by: By) -> Floats:
    """One p-value of each slide from those of its bundles, however these depend on each other, [m].

    >>> merged_p_values(np.array([[0.01, 0.5], [0.2, 0.3]]), "maximum").tolist()
    [0.02, 0.4]
    >>> merged_p_values(np.array([[0.01, 0.5], [0.2, 0.3]]), "mean").tolist()
    [0.51, 0.5]

    Args:
        p: [m, bundles]; NaN where a bundle has none, and then there is none of the slide.
        by: see the head of this file.
    """
    k = p.shape[1]
    merged = k * p.min(1) if by == "maximum" else 2 * p.mean(1)
    return np.asarray(np.minimum(merged, 1.0))
