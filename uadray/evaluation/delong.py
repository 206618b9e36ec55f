"""The AUROC's variance from its placements: DeLong et al. 1988, and Obuchowski 1997 where samples come in groups.

The placement of an anomalous sample is the share of normal samples below it, that of a normal one the share of
anomalous samples above it; ties count half. The mean of either is the AUROC (DeLong et al. 1988,
https://doi.org/10.2307/2531595). Slides of a patient and tiles of a slide are not independent: their placements are
summed by group before their variance is taken (Obuchowski 1997, https://doi.org/10.2307/2533958, section 3).
"""

import math
from typing import Any

import numpy as np
from scipy.stats import norm

from uadray.evaluation.arrays import Bools, Floats, Groups, Interval
from uadray.evaluation.intervals import Z95, logit_interval, newcombe_interval


def placements(scores: Floats, anomalous: Bools) -> Floats:
    """[n] The placement of each sample among those of the other class."""
    placed = np.empty(len(scores), np.float64)
    normals, anomalies = scores[~anomalous], scores[anomalous]
    placed[anomalous] = _share_below(anomalies, normals)
    placed[~anomalous] = 1 - _share_below(normals, anomalies)
    return placed


def auroc_interval(scores: Floats, anomalous: Bools, *, groups: Groups | None = None) -> dict[str, Any]:
    """95 % interval of the AUROC of scores [n] without resampling.

    Args:
        scores: finite.
        anomalous: the truth.
        groups: [n] what belongs together; each sample by itself where not given.

    Returns:
        `ci95`, None where a class is in fewer than two groups; and its `method`: `DeLong` (`DeLong by patient` and the
        like are for callers to say) on the scale of the logit, or `Newcombe` where all pairs are in order, or none is:
        DeLong's variance is then 0, which says nothing of the next sample.
    """
    if not has_two_groups(anomalous, groups):
        return {"ci95": None, "method": "none"}
    placed = placements(scores, anomalous)
    value = float(placed[anomalous].mean())
    error = math.sqrt(max(variance(placed, anomalous, groups), 0.0))
    if not 0 < value < 1 or error == 0:
        return {"ci95": newcombe_interval(value, *class_sizes(anomalous, groups)), "method": "Newcombe"}
    return {"ci95": logit_interval(value, error), "method": "DeLong"}


def paired_difference(
    scores: Floats, others: Floats, anomalous: Bools, *, groups: Groups | None = None
) -> dict[str, Any]:
    """How far the AUROC of scores [n] lies above that of others of the same samples.

    Paired: what makes a sample hard for both does not widen the interval.

    Returns:
        `difference`, its `ci95`, and the two-sided `p_value` of no difference; all None where a class is in fewer than
        two groups.
    """
    if not has_two_groups(anomalous, groups):
        return {"difference": None, "ci95": None, "p_value": None}
    placed = placements(scores, anomalous) - placements(others, anomalous)
    difference = float(placed[anomalous].mean())
    error = math.sqrt(max(variance(placed, anomalous, groups), 0.0))
    interval: Interval = [difference - Z95 * error, difference + Z95 * error]
    p_value = float(2 * norm.sf(abs(difference) / error)) if error > 0 else float(difference == 0)
    return {"difference": difference, "ci95": interval, "p_value": p_value}


def variance(placed: Floats, anomalous: Bools, groups: Groups | None = None) -> float:
    """Of the mean placement: the AUROC's where these are placements [n], a difference's where they are differences.

    Each class has to be in two groups at least. Without groups it is DeLong's; with them Obuchowski's eq. 3, whose
    last term is what normal and anomalous samples of a group have in common.
    """
    if groups is None:
        return sum(float(np.var(placed[of], ddof=1)) / int(of.sum()) for of in (anomalous, ~anomalous))
    names, member = np.unique(groups, return_inverse=True)
    centred = placed - placed[anomalous].mean()
    sums, n_in, n_of = [], [], []
    for of in (anomalous, ~anomalous):
        sums.append(np.bincount(member[of], centred[of], minlength=len(names)))
        n_in.append(len(np.unique(member[of])))
        n_of.append(int(of.sum()))
    own = sum(n / (n - 1) * float((s**2).sum()) / size**2 for s, n, size in zip(sums, n_in, n_of, strict=True))
    shared = len(names) / (len(names) - 1) * float((sums[0] * sums[1]).sum()) / (n_of[0] * n_of[1])
    return own + 2 * shared


def has_two_groups(anomalous: Bools, groups: Groups | None = None) -> bool:
    """Whether each class is in two groups at least: with fewer, nothing tells how much the next would differ."""
    return min(class_sizes(anomalous, groups)) >= 2


def class_sizes(anomalous: Bools, groups: Groups | None = None) -> tuple[int, int]:
    """How many groups have normal samples, and how many have anomalous ones; samples, where there are no groups."""
    n_normal, n_anomalous = (
        int(of.sum()) if groups is None else len(np.unique(groups[of])) for of in (~anomalous, anomalous)
    )
    return n_normal, n_anomalous


def _share_below(scores: Floats, others: Floats) -> Floats:
    """[n] The share of others below each score; those that are equal count half."""
    others = np.sort(others)
    both = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return np.asarray(both / 2 / len(others), np.float64)
