"""Bootstrap over groups: whole patients, or slides, are drawn with replacement (Efron and Tibshirani 1993, ch. 13).

Slides of a patient, and tiles of a slide, are not independent; drawn one by one they would give intervals that are too
narrow. Many draws are computed at once, as rows of a matrix.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from uadray.evaluation.arrays import Bools, Floats, Groups, Interval, Whole
from uadray.evaluation.delong import has_two_groups
from uadray.evaluation.intervals import exact_interval
from uadray.evaluation.operating import Counts

BOOTSTRAPS = 1000

MOST_SCORES = 4096
"""Distinct scores that a resampled curve has: more of them are put together by rank, which moves an AUROC by less than
one in ten thousand."""

_CELLS = 4_000_000
"""Of a matrix of draws at a time."""


def resampled(
    scores: Floats, anomalous: Bools, *, groups: Groups | None = None, draws: int = BOOTSTRAPS, seed: int = 0
) -> Iterator[Counts]:
    """Counts of draws [b, k], some draws at a time; `draws` rows in all that have both classes.

    A draw with one class only is drawn again. There is nothing where a class is in fewer than two groups: every draw
    would hold the same one.

    Args:
        scores: [n], finite.
        anomalous: [n], the truth.
        groups: [n] what is drawn together; each sample by itself where not given.
        draws: how many.
        seed: of the draws.
    """
    if not has_two_groups(anomalous, groups):
        return
    member = members(len(scores), groups)
    place = _places(scores)
    shape = (int(member.max()) + 1, int(place.max()) + 1)
    normal, found = (_table(member[of], place[of], shape) for of in (~anomalous, anomalous))
    left = draws
    for weights in drawn_weights(shape[0], seed=seed, width=max(shape)):
        counts = Counts(np.asarray(weights @ normal), np.asarray(weights @ found))
        counts = counts.kept(np.flatnonzero(counts.has_both)[:left])  # at least every second draw has both classes
        left -= len(counts.normal)
        yield counts
        if left == 0:
            return


def drawn_weights(n_groups: int, *, seed: int, width: int, draws: int | None = None) -> Iterator[Floats]:
    """How often each group was drawn, [b, n_groups] at a time; without an end unless `draws` says how many.

    Args:
        n_groups: how many there are; as many are drawn.
        seed: of the draws.
        width: numbers that the caller computes for a draw, which bounds how many come at a time.
        draws: in all.
    """
    rng, done = np.random.default_rng(seed), 0
    step = max(1, min(BOOTSTRAPS, _CELLS // max(width, n_groups)))
    while draws is None or done < draws:
        b = step if draws is None else min(step, draws - done)
        picked = rng.integers(0, n_groups, (b, n_groups)) + n_groups * np.arange(b)[:, None]
        yield np.bincount(picked.ravel(), minlength=b * n_groups).reshape(b, n_groups).astype(np.float64)
        done += b


def members(n: int, groups: Groups | None) -> Whole:
    """[n] The number of each sample's group, from 0."""
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)


def percentiles(values: Floats) -> Interval | None:
    """95 % percentile interval of what draws gave; None of none."""
    return [float(q) for q in np.quantile(values, [0.025, 0.975])] if len(values) else None


def share_interval(value: float, values: Floats, n: int) -> Interval | None:
    """The percentile interval of a share; that of Clopper and Pearson of n where all draws gave the same 0 or 1.

    Args:
        value: the share that was seen.
        values: of the draws.
        n: patients that the share is of.
    """
    interval = percentiles(values)
    if interval is not None and value in (0.0, 1.0) and interval[0] == interval[1]:
        return exact_interval(round(value * n), n)
    return interval


def _places(scores: Floats) -> Whole:
    """[n] The rank of each score, 0 for the highest; of more than `MOST_SCORES` distinct ones, that of its share."""
    place = np.unique(-scores, return_inverse=True)[1].reshape(-1)
    k = int(place.max()) + 1
    return np.asarray(place if k <= MOST_SCORES else place * MOST_SCORES // k, np.int64)


def _table(member: Whole, place: Whole, shape: tuple[int, int]) -> sparse.csr_matrix:
    """[groups, k] How many samples of each group have each rank."""
    return sparse.csr_matrix((np.ones(len(member)), (member, place)), shape=shape)
