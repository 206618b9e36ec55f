"""P-values of an archive's slides -> a list of them in which false discoveries are few.

A slide that is normal and on the list is a false discovery. Benjamini and Hochberg ("Controlling the false discovery
rate", J. R. Statist. Soc. B 57:289, 1995): of N slides with ordered p-values p_(1) <= ... <= p_(N), the first k are
listed, where k is the largest with p_(k) <= k q / N. The expected share of false discoveries on the list is then at
most q times the share of normal slides in the archive, if the p-values are independent or positively dependent (PRDS,
Benjamini and Yekutieli 2001). Conformal p-values that share their calibration slides are PRDS (Bates et al., "Testing
for outliers with conformal p-values", Annals of Statistics 51:149, 2023, theorem 2), as are those of several groups,
each with calibration slides of its own. The expectation is over calibration and archive together: with few calibration
slides one calibration may do better and another worse.

With n calibration slides no p-value is below 1 / (n + 1). So a list of k slides of N takes n + 1 >= N / (k q): the
fewer of an archive's slides are abnormal, the more normal ones have to be known.
"""

import math

import numpy as np
import numpy.typing as npt

from uadray.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_ROUNDING = 1e-12
"""What floating-point numbers may add to N p / k, as a share of it."""


def q_values(p: Floats) -> Floats:
    """The lowest false discovery rate at which each slide is on the list, [n]; NaN where there is no p-value.

    >>> q_values(np.array([0.01, 0.02, 0.9, np.nan])).tolist()
    [0.03, 0.03, 0.9, nan]

    Args:
        p: [n], in any order; NaN for slides without one, which do not count among the N.

    Raises:
        InputError: a p-value is below 0 or above 1.
    """
    q = np.full(len(p), np.nan)
    places = np.flatnonzero(~np.isnan(p))
    if not len(places):
        return q
    known = p[places]
    if known.min() < 0 or known.max() > 1:
        raise InputError(f"p-values lie between 0 and 1; here they reach from {known.min():g} to {known.max():g}")
    order = np.argsort(known, kind="stable")
    scaled = known[order] * len(known) / np.arange(1, len(known) + 1)
    q[places[order]] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def discoveries(p: Floats, q: float) -> Bools:
    """Which slides are on the list whose expected share of false discoveries is at most `q`, [n].

    >>> discoveries(np.array([0.01, 0.02, 0.9, np.nan]), 0.05).tolist()
    [True, True, False, False]

    Raises:
        InputError: `q` does not lie between 0 and 1, or see `q_values`.
    """
    check_rate(q)
    return listed(q_values(p), q)


def listed(q_of_slides: Floats, q: float) -> Bools:
    """Which slides `discoveries` lists, by their `q_values`."""
    return np.asarray(q_of_slides <= q * (1 + _ROUNDING))


def check_rate(q: float) -> None:
    """Refuse what is no false discovery rate.

    Raises:
        InputError: `q` does not lie between 0 and 1.
    """
    if not 0 < q < 1:
        raise InputError(f"a false discovery rate of {q:g}: it lies between 0 and 1, for example 0.1")


def normals_needed(n_slides: int, q: float, *, n_listed: int = 1) -> int:
    """How many calibration slides, one a patient, a list of `n_listed` slides out of `n_slides` takes at least.

    >>> normals_needed(1000, 0.1), normals_needed(1000, 0.1, n_listed=50)
    (9999, 199)
    """
    return max(0, math.ceil(round(n_slides / (n_listed * q), 9)) - 1)


def shortest_list(n_slides: int, n_normals: int, q: float) -> int:
    """The fewest slides that a list can have; more than `n_slides` where there can be none.

    >>> shortest_list(1000, 199, 0.1)
    50
    """
    return max(1, math.ceil(round(n_slides / (q * (n_normals + 1)), 9)))


def check_normals(n_slides: int, n_normals: int, q: float) -> None:
    """Refuse a rate at which no slide could ever be listed, even if all of them had the smallest p-value.

    Args:
        n_slides: with a p-value.
        n_normals: calibration slides, one a patient: of the largest group that a p-value rests on.
        q: the false discovery rate.

    Raises:
        InputError: with the number of normal slides that are missing.
    """
    check_rate(q)
    if n_slides and shortest_list(n_slides, n_normals, q) > n_slides:
        needed = normals_needed(n_slides, q, n_listed=n_slides)
        tenth = max(1, n_slides // 10)
        raise InputError(
            f"a false discovery rate of {q:g} needs {needed} normal slides at least, one a patient; the calibration "
            f"has {n_normals}, so {needed - n_normals} are missing. For a list of {tenth} of these {n_slides} slides "
            f"it takes {normals_needed(n_slides, q, n_listed=tenth)}"
        )
