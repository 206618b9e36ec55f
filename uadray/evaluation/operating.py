"""What thresholds do to scores: ROC and precision-recall curves, sensitivity at a specificity, and workload saved.

All of it is computed from how many normal and anomalous samples have each distinct score, the highest first. These
counts may be weights of resampled groups, in many rows at once: the last axis is that of the scores.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from uadray.evaluation.arrays import Bools, Floats, Points, Whole

SPECIFICITIES = {"90": 0.90, "95": 0.95, "99": 0.99}
SENSITIVITIES = {"95": 0.95, "99": 0.99}
"""By the names that they have among the figures."""

MOST_POINTS = 400
"""Of a curve in a report."""

_EPS = 1e-9


@dataclass(frozen=True, eq=False)
class Counts:
    """Samples at each distinct score, the highest score first; [k] or [rows, k].

    Attributes:
        normal: how many normal samples have it.
        anomalous: how many anomalous ones.
    """

    normal: Floats
    anomalous: Floats

    @property
    def has_both(self) -> Bools:
        """[rows] Whether there are samples of both classes."""
        return np.asarray((self.normal.sum(-1) > 0) & (self.anomalous.sum(-1) > 0), dtype=bool)

    def kept(self, rows: Whole) -> "Counts":
        """Some of the rows, by number."""
        return Counts(self.normal[rows], self.anomalous[rows])

    @cached_property
    def false_alarms(self) -> Floats:
        """[..., k + 1] The share of normal samples at or above each score, after a 0 for no sample at all."""
        return _shares(self.normal)

    @cached_property
    def found(self) -> Floats:
        """[..., k + 1] The same of anomalous samples: the sensitivity."""
        return _shares(self.anomalous)


def counts_of(scores: Floats, anomalous: Bools) -> tuple[Counts, Floats]:
    """The counts [k] of scores [n], and the scores that they are of [k]."""
    distinct, place = np.unique(-scores, return_inverse=True)
    normal, found = (
        np.bincount(place[of], minlength=len(distinct)).astype(np.float64) for of in (~anomalous, anomalous)
    )
    return Counts(normal, found), -distinct


def aurocs(counts: Counts) -> Floats:
    """[rows] Areas under the ROC curve; ties count half."""
    above = np.cumsum(counts.normal, -1) - counts.normal / 2
    total = counts.normal.sum(-1) * counts.anomalous.sum(-1)
    return np.asarray(1 - (counts.anomalous * above).sum(-1) / total, np.float64)


def average_precisions(counts: Counts) -> Floats:
    """[rows] The mean over anomalous samples of the precision at their score, as scikit-learn has it."""
    true, false = np.cumsum(counts.anomalous, -1), np.cumsum(counts.normal, -1)
    precision = true / np.maximum(true + false, 1e-300)
    return np.asarray((counts.anomalous * precision).sum(-1) / counts.anomalous.sum(-1), np.float64)


def sensitivities(counts: Counts, specificity: float) -> Floats:
    """[rows] The highest sensitivity whose specificity is at least `specificity`."""
    allowed = counts.false_alarms <= 1 - specificity + _EPS
    return np.asarray(np.where(allowed, counts.found, 0.0).max(-1), np.float64)


def saved_shares(counts: Counts, sensitivity: float) -> Floats:
    """[rows] Workload saved: the share of normal samples below the highest threshold that still finds `sensitivity`.

    These are the normal slides that nobody would need to read.
    """
    enough = counts.found >= sensitivity - _EPS
    return np.asarray(1 - np.where(enough, counts.false_alarms, 1.0).min(-1), np.float64)


def roc_points(counts: Counts) -> Points:
    """The ROC curve of counts [k]: shares of normal and of anomalous samples that are called, from none to all."""
    return _thinned(counts.false_alarms, counts.found)


def precision_points(counts: Counts) -> Points:
    """The precision-recall curve of counts [k]: recall and precision, from the highest score on."""
    true, false = np.cumsum(counts.anomalous), np.cumsum(counts.normal)
    return _thinned(true / true[-1], true / (true + false))


def workload_points(counts: Counts) -> Points:
    """Sensitivity, and the share of normal samples that need not be read where it is asked for; ascending."""
    false, found = counts.false_alarms[::-1], counts.found[::-1]
    first = np.flatnonzero(np.diff(found, append=-1.0) < 0)  # of each sensitivity the threshold with most saved
    return _thinned(found[first][::-1], 1 - false[first][::-1])


def sampled(x: Floats, y: Floats, grid: Floats) -> Floats:
    """[len(grid)] The highest y of a rising staircase whose x is at most that of the grid."""
    return np.asarray(y[np.searchsorted(x, grid + _EPS, "right") - 1], np.float64)


def _shares(counts: Floats) -> Floats:
    total = counts.sum(-1, keepdims=True)
    shares = np.cumsum(counts, -1) / np.where(total > 0, total, 1.0)
    return np.concatenate([np.zeros((*shares.shape[:-1], 1)), shares], -1)


def _thinned(x: Floats, y: Floats) -> Points:
    """Points of a curve, at most `MOST_POINTS`: evenly along its length, with both ends."""
    if len(x) > MOST_POINTS:
        along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        rows = np.searchsorted(along, np.linspace(0, along[-1], MOST_POINTS) - 1e-12)
        rows = np.unique(np.concatenate([[0], rows, [len(x) - 1]]).clip(0, len(x) - 1))
        x, y = x[rows], y[rows]
    return [[round(float(a), 6), round(float(b), 6)] for a, b in zip(x, y, strict=True)]
