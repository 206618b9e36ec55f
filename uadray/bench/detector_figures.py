"""Scores -> the figures of one row of `bench detectors`: tiles of valid, shifted stains, slides called."""

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.metrics import roc_curve

from uadray.bench.detector_data import CALIBRATION, CALLED, SPEC, CutSlide, DetectorData
from uadray.bench.reference_scores import Score
from uadray.decisions.aggregation import AggregationConfig, ceiling_of, new_aggregation, score_of, scored_squares
from uadray.decisions.conformal import Calibration, check_alpha
from uadray.decisions.verdict import Verdict, judge
from uadray.evaluation.detection import Bools, Floats, auroc, detection, sensitivity_at
from uadray.evaluation.figures import figures_of_slides

ALPHA = 0.05
"""The stated false-alarm rate of slides, and the share of held-out normal tiles above the tile threshold."""

CURVE_POINTS = 61
"""Of the ROC curve that is kept, evenly spaced along the square root of the false-alarm rate: its start matters."""


def figures_of(score: Score, data: DetectorData) -> dict[str, Any]:
    """All figures of a scorer, `detection` and the slides' among them; nothing is chosen here."""
    held, known = score(data.held_normals), score(data.known_tumours)
    scores, pace = _timed(score, data.valid)
    return {
        "choosing_auroc": auroc(np.concatenate([held, known]), np.repeat([False, True], [len(held), len(known)])),
        "tiles": detection(scores, data.anomalous) | _at_held_threshold(held, scores, data.anomalous),
        "tiles_with_tissue": detection(scores[data.has_tissue], data.anomalous[data.has_tissue]),
        "shifted": shifted_figures(score, scores, data),
        "slides": slide_figures(score, data),
        "roc": curve(scores, data.anomalous),
        **pace,
    }


def _timed(score: Score, tiles: npt.NDArray[np.uint8]) -> tuple[Floats, dict[str, float]]:
    began, cpu_began = time.perf_counter(), time.process_time()
    scores = score(tiles)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return scores, {"tiles_per_s": len(tiles) / seconds, "cpu_ms_per_tile": 1000 * cpu_s / len(tiles)}


def _at_held_threshold(held: Floats, scores: Floats, anomalous: Bools) -> dict[str, float]:
    """What a threshold gives that 5 % of the held-out normals exceed: tiles of other slides score otherwise."""
    threshold = float(np.quantile(held, 1 - ALPHA))
    return {
        "specificity_at_held_threshold": float((scores[~anomalous] <= threshold).mean()),
        "sensitivity_at_held_threshold": float((scores[anomalous] > threshold).mean()),
    }


def shifted_figures(score: Score, scores: Floats, data: DetectorData) -> dict[str, dict[str, float | None]]:
    """By stain: AUROC and sensitivity on the shifted tiles, and how far the AUROC fell from that of the same tiles."""
    truth = data.anomalous[data.is_shifted]
    before = auroc(scores[data.is_shifted], truth) or 0.0
    figures: dict[str, dict[str, float | None]] = {}
    for name, tiles in data.shifted.items():
        moved = score(tiles)
        after = auroc(moved, truth) or 0.0
        figures[name] = {
            "auroc": after,
            "drop": before - after,
            "sensitivity_at_95_specificity": sensitivity_at(moved, truth, specificity=0.95),
            "n": len(truth),
        }
    return figures


def slide_figures(score: Score, data: DetectorData) -> dict[str, dict[str, Any]]:
    """By folder of mosaics: AUROC of slides, tumour slides called at `ALPHA`, and false alarms."""
    aggregation = new_aggregation()
    tables = {name: _scored(score, slides) for name, slides in data.slides.items()}
    calibration = calibrated(tables[CALIBRATION], aggregation)
    figures = {}
    for name in CALLED:
        rows = [slide.row for slide in data.slides[name]]
        verdicts = [judge(table, None, aggregation, calibration, spec=SPEC) for table in tables[name]]
        found = figures_of_slides({row.slide_id: _as_decided(v) for row, v in zip(rows, verdicts, strict=True)}, rows)
        wanted = {"slide_auroc": "auroc", "found": "called", "false_alarms": "false_alarms", "n_anomalous": "n_tumour"}
        wanted |= {"n_normal": "n_normal", "slides_not_scored": "not_scored"}
        figures[name] = {ours: found.get(theirs) for theirs, ours in wanted.items()}
    return figures


def _as_decided(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a row of decisions, whose columns are all there."""
    return dict.fromkeys(("score", "decision", "alpha")) | verdict


def calibrated(tables: Sequence[pa.Table], aggregation: AggregationConfig) -> Calibration:
    """The calibration of normal slides, one a patient.

    Raises:
        InputError: too few of them have a score.
    """
    tables = [table for table in tables if judge(table, None, aggregation, spec=SPEC)["state"] == "scored"]
    check_alpha(ALPHA, len(tables))
    cells = [scored_squares(table, aggregation, spec=SPEC) for table in tables]
    ceiling = ceiling_of(cells) if aggregation.method == "grow" else None
    scores = sorted(score_of(each, aggregation, ceiling=math.inf if ceiling is None else ceiling) for each in cells)
    tiles = np.concatenate([table["score"].drop_null().to_numpy() for table in tables])
    median, p99 = (float(q) for q in np.quantile(tiles, [0.5, 0.99]))
    return Calibration(
        id="bench", bundle_id="bench", aggregation=aggregation, alpha=ALPHA, scores=tuple(scores), tile_median=median,
        tile_p99=p99, tile_high=median + 1.5 * (p99 - median), tile_ceiling=ceiling,
    )  # fmt: skip


def _scored(score: Score, slides: Sequence[CutSlide]) -> list[pa.Table]:
    """Rows of `TILE_SCORES` of each slide; all slides are scored together."""
    scores = score(np.concatenate([slide.pixels for slide in slides]))
    ends = np.cumsum([len(slide.pixels) for slide in slides])
    return [_with_scores(slide, part) for slide, part in zip(slides, np.split(scores, ends[:-1]), strict=True)]


def _with_scores(slide: CutSlide, scores: Floats) -> pa.Table:
    values = np.full(len(slide.table), np.nan)
    values[slide.good] = scores
    column = slide.table.schema.get_field_index("score")
    field = slide.table.schema.field(column)
    return slide.table.set_column(column, field, pa.array(values, pa.float64(), mask=~slide.good))


def curve(scores: Floats, anomalous: Bools) -> list[list[float]]:
    """Points of the ROC curve: shares of false alarms, and the sensitivity at each."""
    false_alarms, sensitivity, _ = roc_curve(anomalous, scores)
    at = np.linspace(0, 1, CURVE_POINTS) ** 2
    return [np.round(values, 4).tolist() for values in (at, np.interp(at, false_alarms, sensitivity))]


def machine() -> dict[str, Any]:
    """What the paces were measured on."""
    import torch

    return {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
