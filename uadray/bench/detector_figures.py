"""Scores -> the figures of one row of `bench detectors`: tiles of valid, shifted stains, slides called.

A row is scored within `SCORING_MINUTES`: where all tiles would take longer at the pace of a few, every second, fourth,
... tile is scored, the same ones in every run, and mosaics are left out if they do not fit beside them.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.metrics import roc_curve

from uadray.bench.detector_data import CALIBRATION, CALLED, SPEC, CutSlide, DetectorData, thinned
from uadray.bench.detector_pictures import DetectorScore
from uadray.bench.reference_scores import TRIVIAL, Score
from uadray.decisions.aggregation import AggregationConfig, new_aggregation, reference_of, score_of, scored_squares
from uadray.decisions.conformal import Calibration, check_alpha
from uadray.decisions.verdict import Verdict, judge
from uadray.detectors.inversion.descent import GROUP
from uadray.evaluation.arrays import Bools, Floats
from uadray.evaluation.detection import auroc, auroc_difference, detection, sensitivity_at
from uadray.evaluation.figures import figures_of_slides

ALPHA = 0.05
"""The stated false-alarm rate of slides, and the share of held-out normal tiles above the tile threshold."""

CURVE_POINTS = 61
"""Of the ROC curve that is kept, evenly spaced along the square root of the false-alarm rate: its start matters."""


SCORING_MINUTES = 5.0
"""Of scoring, a row and seed: on CPUs of their CPU time over threads, as the minutes of training."""

PACE_TILES = 32
"""Scored to tell the pace; an eighth of them before, which are not counted: a first call allocates and compiles."""

MOST_EVERY = 16
"""At the least every 16th tile is scored, whatever it takes: fewer give no figure."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Scoring:
    """Which of the tiles are scored.

    Attributes:
        every: so-many-th tile of each set.
        slides: mosaics too.
        why: more is left out than was asked for; "" where it is not.
    """

    every: int = 1
    slides: bool = True
    why: str = ""


def figures_of(
    score: Score, data: DetectorData, *, most_valid: int | None = None, limit_minutes: float = SCORING_MINUTES,
    now_s: Clock = time.perf_counter,
) -> dict[str, Any]:  # fmt: skip
    """All figures of a scorer, `detection` and the slides' among them; nothing is chosen here.

    Args:
        score: of the row.
        data: to be judged on.
        most_valid: at most so many tiles of valid are scored, and of the other sets in the same proportion.
        limit_minutes: see the module.
        now_s: the clock of those minutes.
    """
    scoring = planned(data, pace_s(score, data.valid, now_s), most_valid=most_valid, limit_s=60 * limit_minutes)
    n_valid = len(data.valid)
    data = thinned(data, scoring.every, slides=scoring.slides)
    held, known = (score(tiles) if len(tiles) else np.empty(0) for tiles in (data.held_normals, data.known_tumours))
    scores, pace, of_pictures = _timed(score, data.valid, data.anomalous)
    return {
        "choosing_auroc": auroc(np.concatenate([held, known]), np.repeat([False, True], [len(held), len(known)])),
        "tiles": detection(scores, data.anomalous) | _at_held_threshold(held, scores, data.anomalous),
        "above_trivial": above_trivial(scores, data),
        "tiles_with_tissue": detection(scores[data.has_tissue], data.anomalous[data.has_tissue]),
        "shifted": shifted_figures(score, scores, data),
        "slides": slide_figures(score, data) if data.slides else {},
        "roc": curve(scores, data.anomalous),
        "scored": {"every": scoring.every, "valid": len(data.valid), "of": n_valid, "why": scoring.why},
        **pace,
        **of_pictures(),
    }


def pace_s(score: Score, tiles: npt.NDArray[np.uint8], now_s: Clock) -> float:
    """Seconds a tile, of a few tiles evenly spaced; of a search of as many as it computes at once, and those once."""
    if isinstance(score, DetectorScore) and score.detector.searches:
        few = tiles[:: max(1, len(tiles) // GROUP)][:GROUP]
        began = now_s()
        score(few)
        return (now_s() - began) / len(few)
    few = tiles[:: max(1, len(tiles) // PACE_TILES)][:PACE_TILES]
    score(few[: -(-len(few) // 8)])
    began = now_s()
    score(few)
    return (now_s() - began) / len(few)


def planned(data: DetectorData, tile_s: float, *, most_valid: int | None, limit_s: float) -> Scoring:
    """Which tiles are scored at so many seconds a tile; where not all fit, those of tile sets get half of the limit."""
    in_sets = len(data.held_normals) + len(data.known_tumours) + len(data.valid) + sum(map(len, data.shifted.values()))
    in_slides = sum(len(slide.pixels) for slides in data.slides.values() for slide in slides)
    asked = every = -(-len(data.valid) // most_valid) if most_valid else 1
    if tile_s * (in_sets / every + in_slides) > limit_s:
        while tile_s * in_sets / every > limit_s / (2 if data.slides else 1) and every < MOST_EVERY:
            every *= 2
    slides = tile_s * (in_sets / every + in_slides) <= limit_s
    why = f"a tile takes {1000 * tile_s:.2g} ms, scoring {limit_s / 60:g} minutes at the most"
    return Scoring(every, slides, why if every > asked or not slides else "")


def above_trivial(scores: Floats, data: DetectorData) -> dict[str, dict[str, Any]]:
    """By trivial score: how far the AUROC on tiles of valid is above that score's, and the paired interval."""
    return {name: auroc_difference(scores, trivial(data.valid), data.anomalous) for name, trivial in TRIVIAL.items()}


def _timed(
    score: Score, tiles: npt.NDArray[np.uint8], anomalous: Bools
) -> tuple[Floats, dict[str, float], Callable[[], dict[str, Any]]]:
    """Scores, their pace, and what gives the figures of mapping and of pictures, of a detector that makes them."""
    began, cpu_began = time.perf_counter(), time.process_time()
    if isinstance(score, DetectorScore) and score.detector.has_picture:
        scores, of_pictures = score.watched(tiles, anomalous)
    else:
        scores, of_pictures = score(tiles), dict
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    pace = {"tiles_per_s": len(tiles) / seconds, "cpu_ms_per_tile": 1000 * cpu_s / len(tiles)}
    return scores, pace, of_pictures


def _at_held_threshold(held: Floats, scores: Floats, anomalous: Bools) -> dict[str, float]:
    """What a threshold gives that 5 % of the held-out normals exceed: tiles of other slides score otherwise.

    Nothing where none of them has a score.
    """
    if not len(held):
        return {}
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
    reference = reference_of(cells, aggregation)
    scores = sorted(score_of(each, aggregation, reference=reference) for each in cells)
    tiles = np.concatenate([table["score"].drop_null().to_numpy() for table in tables])
    median, p99 = (float(q) for q in np.quantile(tiles, [0.5, 0.99]))
    return Calibration(
        id="bench", bundle_id="bench", aggregation=aggregation, alpha=ALPHA, scores=tuple(scores), tile_median=median,
        tile_p99=p99, tile_high=median + 1.5 * (p99 - median), tile_ceiling=reference.ceiling,
        tile_reference=reference,
    )  # fmt: skip


def _scored(score: Score, slides: Sequence[CutSlide]) -> list[pa.Table]:
    """Rows of `TILE_SCORES` of each slide; all slides are scored together."""
    scores = score(np.concatenate([slide.pixels for slide in slides]))
    ends = np.cumsum([len(slide.pixels) for slide in slides])
    return [with_scores(slide, part) for slide, part in zip(slides, np.split(scores, ends[:-1]), strict=True)]


def with_scores(slide: CutSlide, scores: Floats) -> pa.Table:
    """The rows of a slide with the scores of its good tiles."""
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
