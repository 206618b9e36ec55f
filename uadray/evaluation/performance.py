"""All that is said of scores against labels: `detection` with more intervals, operating points and curves."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from uadray.evaluation.arrays import Bools, Floats, Groups, Points
from uadray.evaluation.delong import auroc_interval, class_sizes
from uadray.evaluation.detection import check_both_classes, detection_with
from uadray.evaluation.operating import (
    SENSITIVITIES,
    SPECIFICITIES,
    Counts,
    aurocs,
    average_precisions,
    counts_of,
    precision_points,
    roc_points,
    sampled,
    saved_shares,
    sensitivities,
    workload_points,
)
from uadray.evaluation.resampling import percentiles, resampled, share_interval
from uadray.evaluation.tails import beyond_interval, is_few

BAND = np.linspace(0, 1, 41)
"""Where the bands of the ROC and workload curves have their ends."""


def performance(scores: Floats, anomalous: Bools, *, groups: Groups | None = None) -> dict[str, Any]:
    """Figures of scores [n] against labels [n]; intervals are percentile bootstraps over groups, unless they say.

    Args:
        scores: higher = more abnormal; finite.
        anomalous: the truth.
        groups: [n] what is drawn together; each sample by itself where not given.

    Returns:
        Those of `detection`, and
        `auroc_delong`: `ci95` and `method`, see `delong.auroc_interval`;
        `average_precision_ci95`, None where it is 1, and `prevalence`, the average precision of scores that
        mean nothing;
        `sensitivity`: by specificity in per cent (90, 95, 99) its `value`, `ci95`, the `threshold` (at or above it is
        called), the `specificity` that was reached, and the `method` of the interval: `bootstrap`, or `exact` where
        fewer than two patients are expected beyond the threshold (see `tails`), which is wide: it says what is known;
        `workload`: by sensitivity in per cent (95, 99) the share of normal samples below the threshold that finds as
        many, its `ci95`, `method` and `threshold`. The threshold is chosen on these samples, in each draw anew;
        `curves`: points of `roc`, `pr` and `workload`, and `roc_band` and `workload_band`, each [x, low, high], the
        pointwise 95 % interval of the curve's height at x. Bands are left out where there are no intervals, or no draw
        differs from another since all pairs are in order.

    Raises:
        InputError: one of the two classes is missing.
    """
    check_both_classes(anomalous)
    counts, distinct = counts_of(scores, anomalous)
    draws = _draws(scores, anomalous, groups)
    figures = detection_with(percentiles(draws["auroc"]), scores, anomalous, groups=groups)
    n_normal, n_anomalous = class_sizes(anomalous, groups)
    return figures | {
        "auroc_delong": auroc_interval(scores, anomalous, groups=groups),
        "average_precision_ci95": percentiles(draws["average_precision"]) if figures["average_precision"] < 1 else None,
        "prevalence": float(anomalous.mean()),
        "sensitivity": {
            name: _sensitivity(counts, distinct, specificity)
            | _interval(
                sensitivities(counts, specificity), draws[f"sensitivity {name}"], scores[anomalous], scores[~anomalous],
                1 - specificity, n=n_anomalous, n_others=n_normal,
            )
            for name, specificity in SPECIFICITIES.items()
        },
        "workload": {
            name: _workload(counts, distinct, sensitivity)
            | _interval(
                saved_shares(counts, sensitivity), draws[f"workload {name}"], -scores[~anomalous], -scores[anomalous],
                1 - sensitivity, n=n_normal, n_others=n_anomalous,
            )
            for name, sensitivity in SENSITIVITIES.items()
        },
        "curves": _curves(counts, draws),
    }  # fmt: skip


def _interval(
    value: Floats, drawn: Floats, scores: Floats, others: Floats, share: float, *, n: int, n_others: int
) -> dict[str, Any]:
    """`ci95` and its `method`: the bootstrap's, or that of `tails` where few of the others lie beyond the threshold."""
    if not drawn.size:
        return {"ci95": None, "method": "none"}
    if is_few(n_others, share):
        return {"ci95": beyond_interval(scores, others, share, n=n, n_others=n_others), "method": "exact"}
    return {"ci95": share_interval(float(value), drawn, n), "method": "bootstrap"}


def _draws(scores: Floats, anomalous: Bools, groups: Groups | None) -> dict[str, Floats]:
    """What each draw gives: figures [draws], and curves [draws, len(BAND)]."""
    of_counts: dict[str, Callable[[Counts], Floats]] = {"auroc": aurocs, "average_precision": average_precisions}
    for name, share in SPECIFICITIES.items():
        of_counts[f"sensitivity {name}"] = partial(sensitivities, specificity=share)
    for name, share in SENSITIVITIES.items():
        of_counts[f"workload {name}"] = partial(saved_shares, sensitivity=share)
    of_counts |= {"roc": _roc_heights, "saved": _saved_heights}
    parts: dict[str, list[Floats]] = {name: [np.empty(0)] for name in of_counts}
    for counts in resampled(scores, anomalous, groups=groups):
        for name, of in of_counts.items():
            values = of(counts)
            parts[name] = [*(p for p in parts[name] if p.size), values]
    return {name: np.concatenate(each) for name, each in parts.items()}


def _roc_heights(counts: Counts) -> Floats:
    """[b, len(BAND)] The sensitivity of each draw at false-alarm rates of `BAND`."""
    return np.stack([sampled(x, y, BAND) for x, y in zip(counts.false_alarms, counts.found, strict=True)])


def _saved_heights(counts: Counts) -> Floats:
    """[b, len(BAND)] The workload that each draw saves at sensitivities of `BAND`."""
    pairs = zip(counts.false_alarms, counts.found, strict=True)
    return np.stack([1 - false[np.searchsorted(found, BAND - 1e-9, "left")] for false, found in pairs])


def _sensitivity(counts: Counts, distinct: Floats, specificity: float) -> dict[str, Any]:
    value = float(sensitivities(counts, specificity))
    at = int(np.flatnonzero((counts.found >= value - 1e-12) & (counts.false_alarms <= 1 - specificity + 1e-9))[0])
    return {
        "value": value,
        "threshold": float(distinct[at - 1]) if at else None,
        "specificity": float(1 - counts.false_alarms[at]),
    }


def _workload(counts: Counts, distinct: Floats, sensitivity: float) -> dict[str, Any]:
    at = int(np.flatnonzero(counts.found >= sensitivity - 1e-9)[0])
    return {
        "value": float(saved_shares(counts, sensitivity)),
        "threshold": float(distinct[at - 1]),
        "sensitivity": float(counts.found[at]),
    }


def _curves(counts: Counts, draws: dict[str, Floats]) -> dict[str, Points]:
    curves = {"roc": roc_points(counts), "pr": precision_points(counts), "workload": workload_points(counts)}
    for name, of in (("roc_band", "roc"), ("workload_band", "saved")):
        if draws[of].size and np.ptp(draws[of], axis=0).any():
            low, high = np.quantile(draws[of], [0.025, 0.975], axis=0)
            curves[name] = [[round(float(v), 6) for v in row] for row in zip(BAND, low, high, strict=True)]
    return curves
