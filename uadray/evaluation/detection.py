"""How well scores tell anomalous from normal, with the uncertainty of the sample."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from uadray.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BOOTSTRAPS = 1000

Z95 = 1.959964
"""Standard deviations of a normal distribution within which 95 % lie."""


def auroc(scores: Floats, anomalous: Bools) -> float | None:
    """Area under the ROC curve; None where a class is missing.

    >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([False, False, True]))
    1.0
    """
    if anomalous.all() or not anomalous.any():
        return None
    return float(roc_auc_score(anomalous, scores))


def detection(scores: Floats, anomalous: Bools, *, groups: npt.NDArray[np.str_] | None = None) -> dict[str, Any]:
    """Metrics of scores [n] against labels [n].

    Args:
        scores: higher = more abnormal; finite.
        anomalous: the truth.
        groups: [n] what is drawn together in the bootstrap (tiles of a slide, slides of a patient: they are not
            independent); each by itself where not given.

    Returns:
        `auroc`, `auroc_ci95` (percentile bootstrap, see `bootstrap_ci`), `average_precision`,
        `sensitivity_at_95_specificity`, `n_normal`, `n_anomalous`, `n_groups`.

    Raises:
        InputError: one of the two classes is missing.
    """
    value = auroc(scores, anomalous)
    if value is None:
        raise InputError(
            f"evaluation needs normal and anomalous samples; found {int((~anomalous).sum())} normal and "
            f"{int(anomalous.sum())} anomalous"
        )
    return {
        "auroc": value,
        "auroc_ci95": bootstrap_ci(scores, anomalous, groups=groups),
        "average_precision": float(average_precision_score(anomalous, scores)),
        "sensitivity_at_95_specificity": sensitivity_at(scores, anomalous, specificity=0.95),
        "n_normal": int((~anomalous).sum()),
        "n_anomalous": int(anomalous.sum()),
        "n_groups": len(scores if groups is None else np.unique(groups)),
    }


def auroc_difference(scores: Floats, others: Floats, anomalous: Bools) -> dict[str, Any]:
    """How far the AUROC of scores [n] lies above that of others of the same samples, with its 95 % interval.

    Paired: what makes a sample hard for both does not widen the interval (DeLong et al. 1988,
    https://doi.org/10.2307/2531595; samples are taken for independent).

    Returns:
        `difference` and `ci95`; None and None where a class has fewer than two samples.
    """
    if min(anomalous.sum(), (~anomalous).sum()) < 2:
        return {"difference": None, "ci95": None}
    pairs = [_placed(each, anomalous) for each in (scores, others)]
    of_anomalous, of_normal = (np.stack(each) for each in zip(*pairs, strict=True))
    difference = float(of_anomalous[0].mean() - of_anomalous[1].mean())
    variance = sum(np.var(part[0] - part[1], ddof=1) / part.shape[1] for part in (of_anomalous, of_normal))
    half = Z95 * float(np.sqrt(variance))
    return {"difference": difference, "ci95": [difference - half, difference + half]}


def _placed(scores: Floats, anomalous: Bools) -> tuple[Floats, Floats]:
    """Of each anomalous sample the share of normal ones below it, of each normal one that of anomalous ones above it.

    Ties count half. The mean of either is the AUROC.
    """
    normals, anomalies = scores[~anomalous], scores[anomalous]
    return _share_below(anomalies, normals), 1 - _share_below(normals, anomalies)


def _share_below(scores: Floats, others: Floats) -> Floats:
    """[n] The share of others below each score; those that are equal count half."""
    others = np.sort(others)
    both = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return np.asarray(both / 2 / len(others), np.float64)


def sensitivity_at(scores: Floats, anomalous: Bools, *, specificity: float) -> float:
    """The highest sensitivity whose specificity is at least `specificity`."""
    false_alarms, sensitivity, _ = roc_curve(anomalous, scores, drop_intermediate=False)
    return float(sensitivity[false_alarms <= 1 - specificity + 1e-12].max())


def bootstrap_ci(
    scores: Floats, anomalous: Bools, *, groups: npt.NDArray[np.str_] | None = None, seed: int = 0
) -> list[float] | None:
    """95 % percentile interval of the AUROC over resampled groups (Efron and Tibshirani 1993, ch. 13).

    Whole groups are drawn with replacement; a draw with one class only is drawn again. None where a class is in fewer
    than two groups: every draw would have the same one, and the interval would not be of it.
    """
    rng = np.random.default_rng(seed)
    _, member = np.unique(groups if groups is not None else np.arange(len(scores)), return_inverse=True)
    if any(len(np.unique(member[of_class])) < 2 for of_class in (anomalous, ~anomalous)):
        return None
    n_groups = int(member.max()) + 1
    order = np.argsort(scores, kind="stable")
    _, rank = np.unique(scores[order], return_inverse=True)
    member, truth = member[order], anomalous[order]
    values: list[float] = []
    while len(values) < BOOTSTRAPS:  # at least every second draw has both classes
        weight = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups))[member]
        value = _weighted_auroc(rank, truth, weight.astype(np.float64))
        if value is not None:
            values.append(value)
    return [float(q) for q in np.quantile(values, [0.025, 0.975])]


def _weighted_auroc(rank: npt.NDArray[np.int64], anomalous: Bools, weight: Floats) -> float | None:
    """AUROC of weighted samples in ascending order; `rank` is equal for ties, which count half."""
    normal = np.bincount(rank, weight * ~anomalous)
    abnormal = np.bincount(rank, weight * anomalous)
    if not normal.any() or not abnormal.any():
        return None
    below = np.cumsum(normal) - normal
    return float((abnormal * (below + normal / 2)).sum() / (normal.sum() * abnormal.sum()))
