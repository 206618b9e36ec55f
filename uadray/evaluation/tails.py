"""Shares beyond a quantile that few samples tell: sensitivity at a specificity, and workload saved at a sensitivity.

Where the threshold is to be passed by 5 % of normal slides and there are ten of them, it lies somewhere above the
highest score that was seen, and a bootstrap, which cannot draw higher ones, gives intervals that are too narrow by far
(of 95 % intervals one in two held the truth). The interval here holds whatever the distributions are: the number of
samples beyond the true threshold is binomial, which bounds it by two of the scores that were seen, and the share of the
other class beyond each of these has an exact interval (Clopper and Pearson 1934). Both at 97.5 %, it holds at 95 % at
least (Bonferroni).
"""

import numpy as np
from scipy.stats import beta, binom

from uadray.evaluation.arrays import Floats, Interval

FEW = 2.0
"""Groups expected beyond a threshold: with fewer the interval of this module is used, else the bootstrap's."""

_END = 0.0125
"""Probability that is left out at each end of each of the two steps."""


def is_few(n: int, share: float) -> bool:
    """Whether n groups are too few for a bootstrap of the threshold that a share of them lies beyond."""
    return n * share < FEW - 1e-9


def needed(share: float) -> int:
    """Groups from which the threshold that a share of them lies beyond has an upper end; with fewer nothing bounds it.

    >>> needed(0.1), needed(0.05), needed(0.01)
    (42, 86, 437)
    """
    return int(np.ceil(np.log(_END) / np.log(1 - share)))


def beyond_interval(scores: Floats, others: Floats, share: float, *, n: int, n_others: int) -> Interval:
    """95 % interval of the share of `scores` above the threshold that a share of `others` lies above.

    Args:
        scores: whose share it is.
        others: that the threshold is of, such as normal slides with a share of 5 %.
        share: of `others` above the threshold.
        n: groups of `scores` (patients), which count as that many independent samples.
        n_others: groups of `others`.
    """
    fewest, most = (float(binom.ppf(end, n_others, share)) / n_others for end in (_END, 1 - _END))
    descending = np.sort(others)[::-1]
    upper_at, lower_at = round(fewest * len(others)), round(most * len(others))
    highest = descending[upper_at - 1] if upper_at > 0 else np.inf
    lowest = descending[lower_at] if lower_at < len(others) else -np.inf
    return [_end(float((scores > highest).mean()), n, _END), _end(float((scores > lowest).mean()), n, 1 - _END)]


def _end(value: float, n: int, level: float) -> float:
    """The lower or upper end of an exact interval of a share of n samples."""
    count = value * n
    if level < 0.5:
        return 0.0 if count <= 0 else float(beta.ppf(level, count, n - count + 1))
    return 1.0 if count >= n else float(beta.ppf(level, count + 1, n - count))
