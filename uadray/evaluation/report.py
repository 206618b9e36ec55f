"""`uadray evaluate`: a scores file or a screening folder -> JSON and a page."""

import html
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import InputError
from uadray.evaluation.detection import auroc, detection
from uadray.evaluation.outlines import any_outline, outline_uri, read_outlines, tile_truth
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects
from uadray.tiles.grid import slide_of

TRIVIAL = {"mean_saturation": 1.0, "minus_mean_green": -1.0}
"""Scores that need no model, with the sign that makes higher = more abnormal. A detector that does not stand clearly
above them has not worked."""

_COLUMN = {"mean_saturation": "mean_saturation", "minus_mean_green": "mean_green"}


def evaluate(uri: str, *, labels: str | None = None, outlines: str | None = None) -> dict[str, Any]:
    """Evaluate and leave JSON and a page: `evaluation.*` in a screening's folder, `<name>.*` beside a scores file.

    Whatever is not independent is resampled together: `grouped_by` says `patient`, `slide` or, where nothing tells
    tiles of one slide from those of another, `tile`.

    Args:
        uri: a scores.parquet of `uadray score`, or the output folder of `uadray screen`.
        labels: manifest whose `patient_id` says which slides belong together; its `label` is needed for a folder, and
            is that of tiles that have none in a scores file.
        outlines: folder of GeoJSON files; otherwise each lies beside its slide.

    Raises:
        InputError: no labels, one class only, or nothing there.
    """
    rows = read_manifest(labels) if labels is not None else []
    if uri.endswith(".parquet"):
        result = evaluate_scores(_read_table(uri), rows)
        beside = uri.removesuffix(".parquet") + "."
    else:
        if labels is None:
            raise InputError(f"evaluating the screening {uri} needs --labels MANIFEST with a label column")
        result = evaluate_screening(uri, rows, outlines=outlines)
        beside = objects.join(uri, "evaluation") + "."
    objects.write_bytes(beside + "json", json.dumps(result, indent=1).encode())
    objects.write_bytes(beside + "html", evaluation_page(uri, result).encode(), content_type="text/html; charset=utf-8")
    return result | {"page": beside + "html"}


def evaluate_scores(table: pa.Table, rows: Sequence[SlideRow] = ()) -> dict[str, Any]:
    """Metrics of a table with `label` and `score`; a tile without a score is counted and left out.

    Slides are told by `slide_id`, or by tile ids as `uadray.tiles.grid.tile_id` makes them.
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
        own or (by_id[s].label if s in by_id else None)
        for own, s in zip(scored["label"].to_pylist(), slides, strict=True)
    ]
    if not all(labels):
        raise InputError("scores: every tile needs a label (the name of its folder); some have none")
    anomalous = np.array([is_anomalous(label) for label in labels], dtype=bool)
    scores = scored["score"].to_numpy().astype(np.float64)
    groups, grouped_by = _groups(slides, rows)
    result = detection(scores, anomalous, groups=groups) | {"grouped_by": grouped_by}
    result |= {"n_unscored": len(table) - len(scored), "n_not_finite": n_not_finite}
    return result | {"trivial": _trivial(scored, anomalous)}


def evaluate_screening(out: str, rows: list[SlideRow], *, outlines: str | None = None) -> dict[str, Any]:
    """Metrics by slide (against `label`) and, where there are outlines, by tile."""
    decisions = {d["slide_id"]: d for d in _read_table(objects.join(out, "decisions.parquet")).to_pylist()}
    labelled = [r for r in rows if r.label and r.slide_id in decisions]
    if not labelled:
        raise InputError(f"{out}: no slide of the manifest was screened there and has a label")
    states = [decisions[r.slide_id]["state"] for r in labelled]
    judged = [r for r, state in zip(labelled, states, strict=True) if state == "scored"]
    finite, n_not_finite = _finite(pa.array([decisions[r.slide_id]["score"] for r in judged], pa.float64()))
    scored = [judged[i] for i in np.flatnonzero(finite)]
    anomalous = np.array([is_anomalous(r.label) for r in scored], dtype=bool)
    scores = np.array([decisions[r.slide_id]["score"] for r in scored], dtype=np.float64)
    groups, grouped_by = _groups([r.slide_id for r in scored], rows)
    result = detection(scores, anomalous, groups=groups) if len(scored) else {}
    called = np.array([decisions[r.slide_id]["decision"] == "anomalous" for r in scored], dtype=bool)
    result |= {
        "grouped_by": grouped_by,
        "slide_auroc": result.get("auroc"),
        "slides_not_scored": len(labelled) - len(scored),
        "slides_not_finite": n_not_finite,
        "alpha": decisions[scored[0].slide_id]["alpha"] if scored else None,
        "false_alarms": int((called & ~anomalous).sum()),
        "found": int((called & anomalous).sum()),
    }
    return result | _tiles(out, scored, outlines)


def _tiles(out: str, rows: Sequence[SlideRow], outlines: str | None) -> dict[str, Any]:
    uris = [outline_uri(r.uri, r.slide_id, outlines) for r in rows]
    if not any_outline(uris):
        return {"tile_auroc": None, "tiles_note": "no outlines found"}
    tables, truths, n_not_finite = [], [], 0
    slides: list[str] = []
    for row, uri in zip(rows, uris, strict=True):
        tiles = _read_table(objects.join(out, "tiles", f"{row.slide_id}.parquet"))
        outline = read_outlines(uri)
        if outline is None and is_anomalous(row.label):
            continue  # nobody said where its lesions are
        finite, odd = _finite(tiles["score"])
        tiles, n_not_finite = tiles.filter(pa.array(finite)), n_not_finite + odd
        tables.append(tiles)
        truths.append(tile_truth(tiles, outline) if outline is not None else np.zeros(len(tiles), np.int8))
        slides += [row.slide_id] * len(tiles)
    table, truth = pa.concat_tables(tables), np.concatenate(truths)
    kept = truth >= 0
    anomalous = truth[kept] == 1
    table = table.filter(pa.array(kept))
    if anomalous.all() or not anomalous.any():
        return {"tile_auroc": None, "tiles_note": "tiles of one class only"}
    groups, grouped_by = _groups([slides[i] for i in np.flatnonzero(kept)], rows)
    metrics = detection(table["score"].to_numpy().astype(np.float64), anomalous, groups=groups)
    metrics |= {"grouped_by": grouped_by, "n_left_out": int((~kept).sum()), "n_not_finite": n_not_finite}
    return {"tile_auroc": metrics["auroc"], "tiles": metrics, "trivial": _trivial(table, anomalous)}


def _groups(slides: Sequence[str | None], rows: Sequence[SlideRow]) -> tuple[npt.NDArray[np.str_], str]:
    """What is not independent, by name, and what that is: patients where `rows` know any, else slides, else tiles.

    A slide without a patient stands for itself, and so does a tile without a slide.
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
    ids = table["tile_id"].to_pylist() if "tile_id" in table.column_names else [None] * n
    own = table["slide_id"].to_pylist() if "slide_id" in table.column_names else [None] * n
    return [slide or slide_of(tile_id or "") for slide, tile_id in zip(own, ids, strict=True)]


def _finite(scores: pa.ChunkedArray) -> tuple[npt.NDArray[np.bool_], int]:
    """Which scores are numbers, and how many are there and none (NaN, infinite): those are faults, not tiles to skip.

    Raises:
        InputError: the column has something else than numbers.
    """
    try:
        values = scores.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"scores: the column score has {scores.type}, expected numbers") from error
    finite = np.isfinite(values)
    return finite, int(len(scores) - scores.null_count - finite.sum())


def is_anomalous(label: str | None) -> bool:
    """Every label but `normal` is an anomaly: the detector is not told which."""
    return (label or "").casefold() != "normal"


def _trivial(table: pa.Table, anomalous: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, sign in TRIVIAL.items():
        if _COLUMN[name] in table.column_names:
            finite, _ = _finite(table[_COLUMN[name]])
            values = table[_COLUMN[name]].to_numpy().astype(np.float64)[finite]
            found[name] = auroc(sign * values, anomalous[finite])
    return found


def _read_table(uri: str) -> pa.Table:
    if not objects.exists(uri):
        raise InputError(f"{uri}: not there; is it the output of `uadray score` or a finished `uadray screen`?")
    try:
        return pq.read_table(io.BytesIO(objects.read_bytes(uri)))
    except pa.ArrowInvalid as error:
        raise InputError(f"{uri}: not a Parquet file: {error}") from error


def evaluation_page(title: str, result: dict[str, Any]) -> str:
    """The result as an HTML table for people."""

    def cells(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
        rows: list[tuple[str, str]] = []
        for key, value in values.items():
            if isinstance(value, dict):
                rows += cells(value, f"{prefix}{key}: ")
            else:
                rows.append((prefix + key.replace("_", " "), _text(value)))
        return rows

    body = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in cells(result))
    style = "body{font:15px system-ui;margin:2rem}th{text-align:left;font-weight:500;padding-right:2rem}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title><style>{style}</style>'
        f"<h1>Evaluation</h1><p>{html.escape(title)}</p><table>{body}</table>"
        "<p>Research use only. A detector not clearly above the trivial scores has not worked.</p></html>"
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return " to ".join(_text(v) for v in value)
    return "-" if value is None else str(value)
