"""Tables of scores and decisions -> figures. Pure: nothing here reads or writes a file.

Samples that are not independent are resampled together: slides of a patient, tiles of a slide (see `detection`).
`grouped_by` among the figures says `patient`, `slide` or, where nothing tells tiles of one slide from those of another,
`tile`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.errors import InputError
from uadray.evaluation.detection import Bools, auroc, detection
from uadray.evaluation.outlines import tile_truth
from uadray.slides.manifest import SlideRow
from uadray.tiles.cells import without_cells
from uadray.tiles.grid import slide_of

TRIVIAL = {"mean_saturation": ("mean_saturation", 1.0), "minus_mean_green": ("mean_green", -1.0)}
"""Scores that need no model: name -> column, and the sign that makes higher = more abnormal. A detector that does not
stand clearly above them has not worked."""


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
    finite, n_not_finite = _finite(table["score"])
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
    groups, grouped_by = _groups(slides, rows)
    figures = detection(scores, anomalous, groups=groups) | {"grouped_by": grouped_by}
    figures |= {"n_unscored": len(table) - len(scored), "n_not_finite": n_not_finite}
    return figures | {"trivial": _trivial(scored, anomalous)}


def scored_slides(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow]) -> list[SlideRow]:
    """The slides that have a label and a finite score.

    Args:
        decisions: rows of `SLIDE_DECISIONS` by slide id.
        rows: the manifest.
    """
    judged = [r for r in labelled_slides(decisions, rows) if decisions[r.slide_id]["state"] == "scored"]
    finite, _ = _finite(_slide_scores(decisions, judged))
    return [judged[i] for i in np.flatnonzero(finite)]


def labelled_slides(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow]) -> list[SlideRow]:
    """The slides that have a label and a decision, whatever it is."""
    return [r for r in rows if r.label and r.slide_id in decisions]


def figures_of_slides(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow]) -> dict[str, Any]:
    """Figures of a screening by slide, against the labels of the manifest.

    Args:
        decisions: rows of `SLIDE_DECISIONS` by slide id.
        rows: the manifest.
    """
    labelled, scored = labelled_slides(decisions, rows), scored_slides(decisions, rows)
    judged = [r for r in labelled if decisions[r.slide_id]["state"] == "scored"]
    anomalous = np.array([is_anomalous(r.label) for r in scored], dtype=bool)
    scores = np.array([decisions[r.slide_id]["score"] for r in scored], dtype=np.float64)
    groups, grouped_by = _groups([r.slide_id for r in scored], rows)
    figures = detection(scores, anomalous, groups=groups) if scored else {}
    called = np.array([decisions[r.slide_id]["decision"] == "anomalous" for r in scored], dtype=bool)
    return figures | {
        "grouped_by": grouped_by,
        "slide_auroc": figures.get("auroc"),
        "slides_not_scored": len(labelled) - len(scored),
        "slides_not_finite": _finite(_slide_scores(decisions, judged))[1],
        "alpha": decisions[scored[0].slide_id]["alpha"] if scored else None,
        "false_alarms": int((called & ~anomalous).sum()),
        "found": int((called & anomalous).sum()),
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
        finite, n_bad = _finite(tiles["score"])
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
    groups, grouped_by = _groups([slide_ids[i] for i in np.flatnonzero(kept)], rows)
    figures = detection(table["score"].to_numpy().astype(np.float64), anomalous, groups=groups)
    figures |= {"grouped_by": grouped_by, "n_left_out": int((~kept).sum()), "n_not_finite": n_not_finite}
    return {"tile_auroc": figures["auroc"], "tiles": figures, "trivial": _trivial(table, anomalous)}


def is_anomalous(label: str | None) -> bool:
    """True for every label but `normal`, however it is written: the detector is not told which anomaly it is."""
    return (label or "").casefold() != "normal"


def _groups(slides: Sequence[str | None], rows: Sequence[SlideRow]) -> tuple[npt.NDArray[np.str_], str]:
    """The group of each sample, and what a group is: a patient where `rows` know any, else a slide, else a tile.

    A slide without a patient is a group by itself, and so is a tile without a slide.
    """
    patients = {row.slide_id: row.patient_id for row in rows if row.patient_id}
    names = [
        f"tile {i}" if not slide else f"patient {patients[slide]}" if slide in patients else f"slide {slide}"
        for i, slide in enumerate(slides)
    ]
    grouped_by = "patient" if any(s in patients for s in slides) else "slide" if any(slides) else "tile"
    return np.array(names, dtype=np.str_), grouped_by


def _slides_of(table: pa.Table) -> list[str | None]:
    """The slide of each tile; None where nothing tells."""
    n = len(table)
    tile_ids = table["tile_id"].to_pylist() if "tile_id" in table.column_names else [None] * n
    slide_ids = table["slide_id"].to_pylist() if "slide_id" in table.column_names else [None] * n
    return [slide or slide_of(tile_id or "") for slide, tile_id in zip(slide_ids, tile_ids, strict=True)]


def _slide_scores(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow]) -> pa.Array:
    return pa.array([decisions[r.slide_id]["score"] for r in rows], pa.float64())


def _finite(scores: pa.Array | pa.ChunkedArray) -> tuple[Bools, int]:
    """Which scores are numbers, and how many are NaN or infinite: these are faults, and not scores that are missing.

    Raises:
        InputError: the column has something else than numbers.
    """
    try:
        values = scores.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"scores: the column score has {scores.type}, expected numbers") from error
    finite = np.isfinite(values)
    return finite, int(len(scores) - scores.null_count - finite.sum())


def _trivial(table: pa.Table, anomalous: Bools) -> dict[str, float | None]:
    """The AUROC of each trivial score whose column is there."""
    aurocs: dict[str, float | None] = {}
    for name, (column, sign) in TRIVIAL.items():
        if column in table.column_names:
            finite, _ = _finite(table[column])
            values = table[column].to_numpy().astype(np.float64)[finite]
            aurocs[name] = auroc(sign * values, anomalous[finite])
    return aurocs
