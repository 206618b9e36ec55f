"""Tables of scores and decisions -> figures. Pure: nothing here reads or writes a file.

Samples that are not independent are resampled together: slides of a patient, tiles of a slide (see `detection`).
`grouped_by` among the figures says `patient`, `slide` or, where nothing tells tiles of one slide from those of another,
`tile`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.errors import InputError
from uadray.evaluation.detection import auroc
from uadray.evaluation.intervals import exact_interval
from uadray.evaluation.judged import (
    finite_scores,
    groups_of,
    is_anomalous,
    judged_slides,
    labelled_slides,
    left_out,
    slide_scores,
)
from uadray.evaluation.outlines import tile_truth
from uadray.evaluation.performance import performance
from uadray.evaluation.subgroups import subgroups
from uadray.evaluation.trivial import beyond_trivial, trivial_aurocs, trivial_scores, trivial_tile_scores
from uadray.evaluation.uniform import uniformity
from uadray.slides.manifest import SlideRow
from uadray.tiles.cells import without_cells
from uadray.tiles.grid import slide_of


def figures_of_scores(table: pa.Table, rows: Sequence[SlideRow] = ()) -> dict[str, Any]:
    """Figures of tile scores; a tile without a score is counted and left out.

    Args:
        table: with `label` and `score`. The slide of a tile is told by `slide_id`, or by tile ids as
            `uadray.tiles.grid` makes them.
        rows: the manifest; labels tiles that have no label, and says which slides are of one patient.

    Raises:
        InputError: a column or a label is missing, or the manifest is of other slides.
    """
    missing = {"label", "score"} - set(table.column_names)
    if missing:
        raise InputError(f"scores: no column {' and '.join(sorted(missing))}; found {', '.join(table.column_names)}")
    slides = _slides_of(table)
    by_id = {row.slide_id: row for row in rows}
    if by_id and not by_id.keys() & set(slides):
        raise InputError("scores: none of the slides of --labels is among them; is it the manifest that was scored?")
    finite, n_not_finite = finite_scores(table["score"])
    kept = np.flatnonzero(finite)
    scored, slides = table.take(kept), [slides[i] for i in kept]
    labels = [
        label or (by_id[slide].label if slide in by_id else None)
        for label, slide in zip(scored["label"].to_pylist(), slides, strict=True)
    ]
    if not all(labels):
        raise InputError("scores: every tile needs a label (the name of its folder); some have none")
    anomalous = np.array([is_anomalous(label) for label in labels], dtype=bool)
    scores = scored["score"].to_numpy().astype(np.float64)
    groups, grouped_by = groups_of(slides, rows)
    figures = performance(scores, anomalous, groups=groups) | {"grouped_by": grouped_by}
    figures |= {"n_unscored": len(table) - len(scored), "n_not_finite": n_not_finite}
    beyond = beyond_trivial(scores, trivial_tile_scores(scored), anomalous, groups=groups)
    return figures | {"trivial": trivial_aurocs(scored, anomalous), "beyond_trivial": beyond}


def figures_of_slides(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow]) -> dict[str, Any]:
    """Figures of a screening by slide, against the labels of the manifest.

    Args:
        decisions: rows of `SLIDE_DECISIONS` by slide id.
        rows: the manifest.

    Returns:
        Those of `performance` of the slides that neither training nor calibration used, and `slide_auroc`, the same as
        `auroc`; `slides_not_scored`, `slides_not_finite`, `slides_left_out` by what used them; of the decisions
        `alpha`, `false_alarms`, `found` and its exact interval `found_ci95`; `slide_trivial`, the AUROC of trivial
        scores, and `beyond_trivial`; `subgroups`; `p_values` (see `uniform`), whose curve and band are `calibration`
        and `calibration_band` among the `curves`.

    Raises:
        InputError: scored slides of one class only.
    """
    labelled, judged = labelled_slides(decisions, rows), judged_slides(decisions, rows)
    scored = [r for r in labelled if decisions[r.slide_id]["state"] == "scored"]
    anomalous, called, n = judged.anomalous, judged.called, len(judged.scores)
    figures = performance(judged.scores, anomalous, groups=judged.groups) if n else {}
    trivial = trivial_scores(judged.decisions)
    p_values = uniformity([d for d, is_ill in zip(judged.decisions, anomalous, strict=True) if not is_ill])
    if p_values is not None and n:
        curves = {"calibration": p_values.pop("curve"), "calibration_band": p_values.pop("band")}
        figures["curves"] = figures["curves"] | curves
    return figures | {
        "grouped_by": judged.grouped_by,
        "slide_auroc": figures.get("auroc"),
        "slides_not_scored": len(labelled) - n,
        "slides_not_finite": finite_scores(slide_scores(decisions, scored))[1],
        "slides_left_out": left_out(decisions, rows),
        "alpha": judged.decisions[0]["alpha"] if n else None,
        "false_alarms": int((called & ~anomalous).sum()),
        "found": int((called & anomalous).sum()),
        "found_ci95": exact_interval(int((called & anomalous).sum()), int(anomalous.sum())),
        "slide_trivial": {name: auroc(values, anomalous) for name, values in trivial.items()},
        "beyond_trivial": beyond_trivial(judged.scores, trivial, anomalous, groups=judged.groups) if n else None,
        "p_values": p_values,
        "subgroups": subgroups(judged),
    }


def figures_of_tiles(slides: Iterable[tuple[SlideRow, pa.Table, Any]], rows: Sequence[SlideRow]) -> dict[str, Any]:
    """Figures of a screening by tile, against the outlines of lesions.

    Args:
        slides: a slide, its rows of `TILE_SCORES` and the union of its outlines; None where a slide has no outlines,
            whose tiles are then all normal.
        rows: the manifest.
    """
    tables, truths, slide_ids, n_not_finite = [], [], [], 0
    for row, tiles, outline in slides:
        finite, n_bad = finite_scores(tiles["score"])
        tiles, n_not_finite = without_cells(tiles).filter(pa.array(finite)), n_not_finite + n_bad
        tables.append(tiles)
        truths.append(tile_truth(tiles, outline) if outline is not None else np.zeros(len(tiles), np.int8))
        slide_ids += [row.slide_id] * len(tiles)
    table, truth = pa.concat_tables(tables), np.concatenate(truths)
    kept = truth >= 0
    anomalous = truth[kept] == 1
    table = table.filter(pa.array(kept))
    if anomalous.all() or not anomalous.any():
        return {"tile_auroc": None, "tiles_note": "tiles of one class only"}
    groups, grouped_by = groups_of([slide_ids[i] for i in np.flatnonzero(kept)], rows)
    scores = table["score"].to_numpy().astype(np.float64)
    figures = performance(scores, anomalous, groups=groups)
    figures |= {"grouped_by": grouped_by, "n_left_out": int((~kept).sum()), "n_not_finite": n_not_finite}
    figures["beyond_trivial"] = beyond_trivial(scores, trivial_tile_scores(table), anomalous, groups=groups)
    return {"tile_auroc": figures["auroc"], "tiles": figures, "trivial": trivial_aurocs(table, anomalous)}


def _slides_of(table: pa.Table) -> list[str | None]:
    """The slide of each tile; None where nothing tells."""
    n = len(table)
    tile_ids = table["tile_id"].to_pylist() if "tile_id" in table.column_names else [None] * n
    slide_ids = table["slide_id"].to_pylist() if "slide_id" in table.column_names else [None] * n
    return [slide or slide_of(tile_id or "") for slide, tile_id in zip(slide_ids, tile_ids, strict=True)]
