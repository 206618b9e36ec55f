"""The false-alarm rate that n normal slides give: how many are needed for it, and in what interval it lies.

A slide is called where its conformal p-value is alpha at most: where it scores above the k-th highest of n normal
slides, k = floor(alpha (n + 1)). How often that happens depends on which n slides these are. For scores without ties
the share of normal slides above the k-th highest of n is distributed as Beta(k, n + 1 - k), whatever the distribution
of the scores: it is the sum of k of the n + 1 uniform spacings (Vovk, "Conditional validity of inductive conformal
predictors", 2012, section 3; David and Nagaraja, Order Statistics, 3rd ed., 2.2 and 6.4). Its mean k / (n + 1) is the
rate over many calibrations, and its central 95 % the interval in which the rate of *this* calibration lies with that
probability. With ties the rate is lower: the upper end holds, the lower one need not.

With smoothed p-values, slides between the k-th and the next lower normal slide are called with probability
f = alpha (n + 1) - k: the rate is the sum of k spacings and f times the next one, with mean alpha.
"""

import math
from functools import lru_cache

import numpy as np

_NODES = 128
"""Of the Gauss-Legendre rule in the interval of smoothed p-values, which has errors below 1e-6 there."""

_HALVINGS = 60


def rank_of(alpha: float, n: int) -> int:
    """The largest k with k / (n + 1) <= alpha, in the same floating-point terms as a p-value.

    >>> rank_of(0.05, 39), rank_of(0.05, 18)
    (2, 0)
    """
    k = math.floor(alpha * (n + 1)) + 1
    while k / (n + 1) > alpha:
        k -= 1
    return k


def normals_needed(alpha: float) -> int:
    """How many normal slides, one a patient, it takes until any slide can be called at this rate: 1 / (n + 1) <= alpha.

    >>> normals_needed(0.05), normals_needed(0.1)
    (19, 9)
    """
    if alpha < 1e-12:  # nobody has so many slides, and floating-point numbers do not tell n from n + 1
        return math.ceil(1 / max(alpha, 1e-300))
    n = max(1, math.ceil(1 / alpha) - 1)
    while 1 / (n + 1) > alpha:
        n += 1
    while n > 1 and 1 / n <= alpha:
        n -= 1
    return n


@lru_cache(maxsize=4096)
def false_alarm_interval(
    alpha: float, n: int, *, level: float = 0.95, smoothed: bool = False
) -> tuple[float, float]:  # fmt: skip
    """The exact interval of the false-alarm rate of a calibration of n normal slides; see the head of this file.

    >>> [round(end, 4) for end in false_alarm_interval(0.05, 19)]
    [0.0013, 0.1765]

    Args:
        alpha: the stated rate.
        n: normal slides, one a patient.
        level: probability that the rate lies in it, half of the rest on each side.
        smoothed: of decisions by smoothed p-values.
    """
    tail = (1 - level) / 2
    return _quantile(tail, alpha, n, smoothed), _quantile(1 - tail, alpha, n, smoothed)


def _quantile(q: float, alpha: float, n: int, smoothed: bool) -> float:
    """The q-quantile of the rate over calibrations."""
    from scipy.special import betainc, betaincinv  # a tenth of a second

    k = rank_of(alpha, n)
    part = max(0.0, alpha * (n + 1) - k) if smoothed else 0.0
    if part < 1e-9:
        return float(betaincinv(k, n + 1 - k, q)) if k else 0.0
    if k == 0:
        return part * float(betaincinv(1, n, q))
    # The k spacings and the next one: together Beta(k + 1, n - k), and of that a share of Beta(k, 1) is the k
    # spacings' (Dirichlet). The rate is their sum times `weight`, over whose distribution is integrated.
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    weight = part + (1 - part) * ((nodes + 1) / 2) ** (1 / k)
    if k == n:  # all spacings: their sum is 1
        return part + (1 - part) * float(q ** (1 / k))
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = float(weights @ betainc(k + 1, n - k, np.minimum(1.0, middle / weight))) / 2
        low, high = (middle, high) if below < q else (low, middle)
    return (low + high) / 2
