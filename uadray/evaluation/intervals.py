"""Intervals of shares and of an AUROC that need no resampling."""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta

from uadray.evaluation.arrays import Interval

Z95 = 1.959964
"""Standard deviations of a normal distribution within which 95 % lie."""


def exact_interval(count: int, n: int) -> Interval | None:
    """95 % interval of a share seen as `count` of n independent trials (Clopper and Pearson 1934); None of no trial.

    >>> [round(end, 3) for end in exact_interval(8, 8)], exact_interval(0, 0)
    ([0.631, 1.0], None)
    """
    if n == 0:
        return None
    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, n - count + 1))
    high = 1.0 if count == n else float(beta.ppf(0.975, count + 1, n - count))
    return [low, high]


def newcombe_interval(auroc: float, n_normal: int, n_anomalous: int) -> Interval:
    """95 % interval of an AUROC that has a width even at 0 and 1, where DeLong's has none.

    Method 5 of Newcombe 2006 (https://doi.org/10.1002/sim.2324): the values of which the one that was seen is no
    further away than 1.96 standard errors as they would themselves have (Hanley and McNeil 1982). Samples are taken
    for independent: give the numbers of patients where they are not.

    >>> [round(end, 3) for end in newcombe_interval(1.0, 8, 8)]
    [0.756, 1.0]
    """

    def excess(value: float) -> float:
        mean_n = (n_normal + n_anomalous) / 2
        spread = 1 + (mean_n - 1) * ((1 - value) / (2 - value) + value / (1 + value))
        return (value - auroc) ** 2 - Z95**2 * value * (1 - value) * spread / (n_normal * n_anomalous)

    low = 0.0 if auroc <= 0 else float(brentq(excess, 1e-12, max(auroc - 1e-12, 1e-12)))
    high = 1.0 if auroc >= 1 else float(brentq(excess, min(auroc + 1e-12, 1 - 1e-12), 1 - 1e-12))
    return [low, high]


def logit_interval(share: float, error: float) -> Interval:
    """95 % interval of a share between 0 and 1 with a standard error, on the scale of the logit: it stays within.

    >>> [round(end, 3) for end in logit_interval(0.95, 0.03)]
    [0.846, 0.985]
    """
    middle, half = math.log(share / (1 - share)), Z95 * error / (share * (1 - share))
    return [float(1 / (1 + np.exp(-(middle + sign * half)))) for sign in (-1, 1)]
