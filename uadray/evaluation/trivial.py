"""Scores that need no model. A detector that does not stand clearly above them has not worked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.evaluation.arrays import Bools, Floats, Groups
from uadray.evaluation.delong import paired_difference
from uadray.evaluation.detection import auroc
from uadray.evaluation.judged import finite_scores

TRIVIAL = {"mean_saturation": ("mean_saturation", 1.0), "minus_mean_green": ("mean_green", -1.0)}
"""Of a tile: name -> column, and the sign that makes higher = more abnormal."""

TRIVIAL_OF_SLIDES = {
    "saturation": ("saturation", 1.0),
    "minus_green": ("green", -1.0),
    "tissue_tiles": ("n_tiles", 1.0),
}
"""Of a slide: name -> field of its decision, and the sign; see `decisions.slide_measures`."""


def trivial_aurocs(table: pa.Table, anomalous: Bools) -> dict[str, float | None]:
    """The AUROC of each trivial score whose column is there, over the tiles that have it."""
    aurocs: dict[str, float | None] = {}
    for name, (column, sign) in TRIVIAL.items():
        if column in table.column_names:
            finite, _ = finite_scores(table[column])
            values = table[column].to_numpy().astype(np.float64)[finite]
            aurocs[name] = auroc(sign * values, anomalous[finite])
    return aurocs


def trivial_scores(decisions: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """[n] The trivial scores of slides that all of them have: a screening of an older version has none.

    Args:
        decisions: rows of `SLIDE_DECISIONS`.
    """
    found = {}
    for name, (field, sign) in TRIVIAL_OF_SLIDES.items():
        values = np.array([_number(decision.get(field)) for decision in decisions], np.float64)
        if len(values) and np.isfinite(values).all():
            found[name] = sign * values
    return found


def beyond_trivial(
    scores: Floats, trivial: Mapping[str, Floats], anomalous: Bools, *, groups: Groups | None = None
) -> dict[str, Any] | None:
    """How far the AUROC of scores [n] lies above that of the best trivial score; None where there is none.

    Returns:
        `score`, the name of the best one, its `auroc`, and `difference` and `ci95` (`delong.paired_difference`).
    """
    finite = {name: values for name, values in trivial.items() if np.isfinite(values).all()}
    aurocs = {name: auroc(values, anomalous) or 0.0 for name, values in finite.items()}
    if not aurocs:
        return None
    best = max(aurocs, key=aurocs.__getitem__)
    found = paired_difference(scores, finite[best], anomalous, groups=groups)
    return {"score": best, "auroc": aurocs[best], "difference": found["difference"], "ci95": found["ci95"]}


def trivial_tile_scores(table: pa.Table) -> dict[str, Floats]:
    """[n] The trivial scores of tiles whose column is there; NaN for a tile that has none."""
    return {
        name: sign * table[column].cast(pa.float64()).to_numpy()
        for name, (column, sign) in TRIVIAL.items()
        if column in table.column_names
    }


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
