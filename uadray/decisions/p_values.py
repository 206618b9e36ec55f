"""Conformal p-values of slide scores, plain and smoothed, and the score above which a slide is called.

Smoothed p-values (Vovk et al., Algorithmic Learning in a Random World, 2005, 2.1) count slides with the same score, and
the slide itself, in part: p = (#{s_i > s} + u (1 + #{s_i = s})) / (n + 1) with u uniform on (0, 1). For a normal slide
P(p <= alpha) = alpha, exactly and at any alpha. Here u is made of a hash of the slide's id and the calibration's, so
that a slide is decided the same every time.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from uadray.decisions.false_alarms import rank_of
from uadray.provenance import fingerprint

Floats = npt.NDArray[np.float64]


def p_value(score: float, calibration_scores: Sequence[float]) -> float:
    """Conformal p-value; the smallest that n slides can give is 1 / (n + 1).

    >>> p_value(5.0, (1.0, 2.0, 3.0))
    0.25

    Args:
        score: of the slide.
        calibration_scores: [n], ascending, as calibrations have them.
    """
    n = len(calibration_scores)
    return (1 + n - bisect_left(calibration_scores, score)) / (n + 1)


def p_values(scores: Floats, calibration_scores: Sequence[float] | Floats) -> Floats:
    """`p_value` of many slides, of any shape, among scores in any order; NaN of a score that is NaN.

    >>> p_values(np.array([5.0, 2.0]), (1.0, 2.0, 3.0)).tolist()
    [0.25, 0.75]
    """
    ordered = np.sort(np.asarray(calibration_scores, dtype=np.float64))
    p = (1 + len(ordered) - np.searchsorted(ordered, scores, side="left")) / (len(ordered) + 1)
    return np.asarray(np.where(np.isnan(scores), np.nan, p), dtype=np.float64)


def smoothed_p_value(score: float, calibration_scores: Sequence[float], u: float) -> float:
    """Smoothed conformal p-value, uniform on (0, 1) for a normal slide where u is; never above `p_value`.

    >>> smoothed_p_value(2.0, (1.0, 2.0, 3.0), 0.5)
    0.5

    Args:
        score: of the slide.
        calibration_scores: [n], ascending.
        u: see `uniform_of`.
    """
    n, last = len(calibration_scores), bisect_right(calibration_scores, score)
    equal = last - bisect_left(calibration_scores, score)
    return (n - last + u * (1 + equal)) / (n + 1)


def uniform_of(slide_id: str, calibration: str) -> float:
    """The u of a slide's smoothed p-value, in the open interval from 0 to 1: always the same with this calibration.

    Args:
        slide_id: of the slide.
        calibration: id of the calibration.
    """
    return (int(fingerprint(["smoothed", calibration, slide_id]), 16) // 2**12 + 0.5) / 2**52


def threshold_of(scores: Sequence[float], alpha: float, u: float | None = None) -> float:
    """The score above which a slide is anomalous.

    Args:
        scores: of the normal slides that it is compared with, ascending.
        alpha: which they can state, see `check_alpha`.
        u: of its smoothed p-value. With one, a slide that scores lower is normal, and one that has just this score may
            be either. Where it would be called whatever its score, the lowest score is returned.

    Returns:
        Infinity where there are too few to call any slide.
    """
    n = len(scores)
    k = rank_of(alpha, n)
    if u is not None and k < n and (k + u) / (n + 1) <= alpha:
        k += 1
    return scores[n - k] if k else math.inf
