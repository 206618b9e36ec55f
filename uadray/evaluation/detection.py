"""How well scores tell anomalous from normal, with the uncertainty of the sample."""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from uadray.errors import InputError
from uadray.evaluation.arrays import Bools, Floats, Groups, Interval
from uadray.evaluation.delong import paired_difference
from uadray.evaluation.operating import aurocs
from uadray.evaluation.resampling import percentiles, resampled


def auroc(scores: Floats, anomalous: Bools) -> float | None:
    """Area under the ROC curve; None where a class is missing.

    >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([False, False, True]))
    1.0
    """
    if anomalous.all() or not anomalous.any():
        return None
    return float(roc_auc_score(anomalous, scores))


def detection(scores: Floats, anomalous: Bools, *, groups: Groups | None = None) -> dict[str, Any]:
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
    check_both_classes(anomalous)
    return detection_with(bootstrap_ci(scores, anomalous, groups=groups), scores, anomalous, groups=groups)


def detection_with(
    interval: Interval | None, scores: Floats, anomalous: Bools, *, groups: Groups | None
) -> dict[str, Any]:
    """What `detection` says, with the interval of the AUROC given; of both classes."""
    return {
        "auroc": auroc(scores, anomalous),
        "auroc_ci95": interval,
        "average_precision": float(average_precision_score(anomalous, scores)),
        "sensitivity_at_95_specificity": sensitivity_at(scores, anomalous, specificity=0.95),
        "n_normal": int((~anomalous).sum()),
        "n_anomalous": int(anomalous.sum()),
        "n_groups": len(scores if groups is None else np.unique(groups)),
    }


def check_both_classes(anomalous: Bools, what: str = "samples") -> None:
    """Refuse labels of one class, of which no figure tells how well it is told from the other.

    Raises:
        InputError: with how many there are of each.
    """
    n_anomalous = int(anomalous.sum())
    n_normal = len(anomalous) - n_anomalous
    if not n_normal or not n_anomalous:
        raise InputError(
            f"evaluation needs normal and anomalous {what}; found {n_normal} normal and {n_anomalous} anomalous"
        )


def auroc_difference(scores: Floats, others: Floats, anomalous: Bools) -> dict[str, Any]:
    """How far the AUROC of scores [n] lies above that of others of the same samples, with its 95 % interval.

    Paired, of samples that are independent: see `delong.paired_difference`.

    Returns:
        `difference` and `ci95`; None and None where a class has fewer than two samples.
    """
    found = paired_difference(scores, others, anomalous)
    return {"difference": found["difference"], "ci95": found["ci95"]}


def sensitivity_at(scores: Floats, anomalous: Bools, *, specificity: float) -> float:
    """The highest sensitivity whose specificity is at least `specificity`."""
    false_alarms, sensitivity, _ = roc_curve(anomalous, scores, drop_intermediate=False)
    return float(sensitivity[false_alarms <= 1 - specificity + 1e-12].max())


def bootstrap_ci(
    scores: Floats, anomalous: Bools, *, groups: Groups | None = None, seed: int = 0
) -> list[float] | None:
    """95 % percentile interval of the AUROC over resampled groups, see `resampling.resampled`.

    None where a class is in fewer than two groups: every draw would have the same one, and the interval would not be
    of it.
    """
    drawn = [aurocs(counts) for counts in resampled(scores, anomalous, groups=groups, seed=seed)]
    return percentiles(np.concatenate(drawn)) if drawn else None
