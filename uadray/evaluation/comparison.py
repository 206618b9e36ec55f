"""Two screenings of the same slides: which finds more, as far as these slides can tell."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import binomtest

from uadray.errors import InputError
from uadray.evaluation.arrays import Bools, Floats, Groups, Whole
from uadray.evaluation.delong import has_two_groups, paired_difference
from uadray.evaluation.detection import check_both_classes
from uadray.evaluation.judged import Judged
from uadray.evaluation.operating import Counts, aurocs, average_precisions, counts_of, saved_shares, sensitivities
from uadray.evaluation.resampling import BOOTSTRAPS, drawn_weights, members, percentiles

FIGURES: dict[str, Callable[[Counts], Floats]] = {
    "auroc": aurocs,
    "average_precision": average_precisions,
    "sensitivity_at_95_specificity": partial(sensitivities, specificity=0.95),
    "workload_saved_at_95_sensitivity": partial(saved_shares, sensitivity=0.95),
}


def compared(judged: Judged, other: Judged, *, name: str) -> dict[str, Any]:
    """How one screening differs from another on the slides that both have scored.

    Args:
        judged: of the one.
        other: of the other, with the same slide ids.
        name: of the other, for people.

    Returns:
        `against`; `slides`, those that both have scored, and `only_here` and `only_there`, those that one has;
        `figures`: of each of `FIGURES` its value `here` and `there`, `difference` and `ci95`, the paired percentile
        bootstrap by patient; `delong`: the difference of AUROCs with its interval and p-value
        (`delong.paired_difference`, by patient); `calls`: of `anomalous` and `normal` slides how many `both` call,
        `only_here`, `only_there` and `neither`, with `p_value` of McNemar's exact test of the two in the middle.

    Raises:
        InputError: no slide is in both, or those in both are of one class.
    """
    at_other = {slide_id: i for i, slide_id in enumerate(other.slide_ids)}
    pairs = [(i, at_other[slide_id]) for i, slide_id in enumerate(judged.slide_ids) if slide_id in at_other]
    if not pairs:
        raise InputError(f"{name}: none of its scored slides has a label and a score here; are they of one manifest?")
    here, there = judged.only([i for i, _ in pairs]), other.only([j for _, j in pairs])
    check_both_classes(here.anomalous, f"slides that {name} has scored too")
    return {
        "against": name,
        "slides": len(pairs),
        "only_here": len(judged.scores) - len(pairs),
        "only_there": len(other.scores) - len(pairs),
        "figures": paired_figures(here.scores, there.scores, here.anomalous, here.groups),
        "delong": paired_difference(here.scores, there.scores, here.anomalous, groups=here.groups),
        "calls": {
            "anomalous": _calls(here.called[here.anomalous], there.called[here.anomalous]),
            "normal": _calls(here.called[~here.anomalous], there.called[~here.anomalous]),
        },
    }


def paired_figures(
    scores: Floats, others: Floats, anomalous: Bools, groups: Groups, *, draws: int = BOOTSTRAPS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Each of `FIGURES` of scores [n] and of others of the same samples; both see the same draws of groups."""
    own, of_others = counts_of(scores, anomalous)[0], counts_of(others, anomalous)[0]
    values = {name: (float(of(own)), float(of(of_others))) for name, of in FIGURES.items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in FIGURES}
    if has_two_groups(anomalous, groups):
        member = members(len(scores), groups)
        tables = [_ordered(each, anomalous) for each in (scores, others)]
        for weights in drawn_weights(int(member.max()) + 1, seed=seed, width=4 * len(scores), draws=draws):
            pair = [_weighted(weights[:, member], *table) for table in tables]
            rows = np.flatnonzero(pair[0].has_both)
            for name, of in FIGURES.items():
                drawn[name].append(np.subtract(of(pair[0].kept(rows)), of(pair[1].kept(rows))))
    return {
        name: {
            "here": here, "there": there, "difference": here - there,
            "ci95": percentiles(np.concatenate(drawn[name])) if drawn[name] else None,
        }
        for name, (here, there) in values.items()
    }  # fmt: skip


def _ordered(scores: Floats, anomalous: Bools) -> tuple[Whole, Whole, Bools]:
    """The order of scores, highest first; where each distinct score begins; and the truth in that order."""
    order = np.argsort(-scores, kind="stable")
    begins = np.flatnonzero(np.diff(scores[order], prepend=np.inf) != 0)
    return order, begins, anomalous[order]


def _weighted(weights: Floats, order: Whole, begins: Whole, truth: Bools) -> Counts:
    """Counts [b, k] of samples with weights [b, n]."""
    ordered = weights[:, order]
    return Counts(*(np.add.reduceat(ordered * of, begins, axis=1) for of in (~truth, truth)))


def _calls(here: Bools, there: Bools) -> dict[str, Any]:
    only_here, only_there = int((here & ~there).sum()), int((~here & there).sum())
    differ = only_here + only_there
    return {
        "both": int((here & there).sum()),
        "only_here": only_here,
        "only_there": only_there,
        "neither": int((~here & ~there).sum()),
        "p_value": float(binomtest(only_here, differ).pvalue) if differ else 1.0,
    }
