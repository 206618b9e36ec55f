"""What a search has found: a row for each of its trials, the best one, and what the unsupervised criterion is worth."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from uadray.errors import InputError
from uadray.provenance import dump_config
from uadray.training.tune_config import Assignment, TuneConfig, configured, told_value
from uadray.training.tune_journal import FoldResult, Journal, Search, TrialLine, trial_key

Row = dict[str, Any]
"""`number`, `params`, `state` (of `STATES`), `auroc`, `auroc_sd` and `auroc_folds`, `criterion`, `steps` (of a fold),
`seconds`, `curve` (steps, and the mean AUROC of the folds that were judged there), `why`."""

STATES = ("complete", "stopped", "unfinished", "failed")
"""Of trials, in the order of the table."""

LEAST_RANKED = 3
"""Complete trials, with fewer of which there is no rank correlation."""


def rows_of(config: TuneConfig, journal: Journal, search: Search) -> list[Row]:
    """The trials, complete ones first and the best of them first; the same configuration has one row."""
    rows: dict[str, Row] = {}
    for number, assignment in enumerate(search.started):
        try:
            train = configured(config, assignment)
        except InputError as error:
            rows.setdefault(repr(assignment), _empty(number, assignment) | {"state": "failed", "why": str(error)})
            continue
        key = trial_key(train)
        if key not in rows:
            folds = [journal.fold(key, fold) for fold in range(config.folds)]
            steps = train.epochs * train.steps_per_epoch
            rows[key] = _row(number, assignment, folds, search.stopped.get(key)) | {"steps": steps}
    return sorted(rows.values(), key=lambda r: (STATES.index(r["state"]), -(r["auroc"] or 0.0), r["number"]))


def left_of(config: TuneConfig, journal: Journal, points: Sequence[Assignment]) -> list[Assignment]:
    """The points of a grid that have neither a figure nor a reason why not."""
    states = {repr(r["params"]): r["state"] for r in rows_of(config, journal, Search(id="", started=list(points)))}
    return [point for point in points if states.get(repr(point)) not in ("complete", "failed")]


def _empty(number: int, assignment: Assignment) -> Row:
    return {
        "number": number, "params": assignment, "state": "unfinished", "auroc": None, "auroc_sd": None,
        "auroc_folds": [], "criterion": None, "steps": None, "seconds": 0.0, "curve": [], "why": "",
    }  # fmt: skip


def _row(
    number: int, assignment: Assignment, folds: Sequence[FoldResult | None], stopped: list[TrialLine] | None
) -> Row:
    row = _empty(number, assignment)
    done = [fold for fold in folds if fold is not None]
    failed = next((fold.failed for fold in done if fold.failed is not None), None)
    ended = [fold.lines[-1] for fold in done if fold.lines]
    lines = stopped or [line for fold in done for line in fold.lines]
    row |= {"seconds": round(sum(fold.seconds for fold in done), 2), "curve": _curve(lines)}
    if failed is not None:
        return row | {"state": "failed", "why": failed}
    if len(ended) == len(folds):
        values = [line["fold_auroc"] for line in ended]
        return row | {
            "state": "complete", "auroc": float(np.mean(values)), "auroc_sd": float(np.std(values, ddof=1)),
            "auroc_folds": values, "criterion": float(np.mean([line["criterion"] for line in ended])),
        }  # fmt: skip
    if stopped:
        return row | {"state": "stopped", "auroc": stopped[-1]["auroc"], "criterion": stopped[-1]["criterion"]}
    return row


def _curve(lines: Sequence[TrialLine]) -> list[list[float]]:
    """Steps, and the mean AUROC of the folds that were judged after so many."""
    by_step: dict[float, list[float]] = {}
    for line in lines:
        by_step.setdefault(line["step"], []).append(line["fold_auroc"])
    return [[step, float(np.mean(values))] for step, values in sorted(by_step.items())]


def rank_correlation(rows: Sequence[Row]) -> float | None:
    """Spearman's, of the AUROC and of how low held-out normal tiles score, over complete trials.

    1: the unsupervised criterion orders the trials as the anomalies do. None where there are too few, or all are alike.
    """
    pairs = [(row["auroc"], -row["criterion"]) for row in rows if row["state"] == "complete"]
    if len(pairs) < LEAST_RANKED or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def unsupervised_choice(rows: Sequence[Row]) -> Row | None:
    """The complete trial whose held-out normal tiles score lowest: what is chosen where there is no anomaly."""
    return min((row for row in rows if row["state"] == "complete"), key=lambda row: row["criterion"], default=None)


def best_yaml(config: TuneConfig, row: Row, *, n_anomalies: int) -> str:
    """The configuration of the best trial, as `uadray train` takes it."""
    train = configured(config, row["params"])
    text = dump_config(train)
    lines = [
        f"# Found by uadray tune: AUROC {row['auroc']:.3f} on held-out normal tiles and {n_anomalies} anomalies, which",
        "# it was chosen on: optimistic. Judge it on other anomalies.",
    ]
    if train.tiles.mpp != config.train.tiles.mpp:
        lines.append(
            f"# It takes tiles of {train.tiles.mpp:g} um/px: slides are cut so by themselves; of a tile set of "
            f"{config.train.tiles.mpp:g} um/px cut another one."
        )
    return "\n".join([*lines, text])


def trials_csv(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The rows as a table."""
    shown = ("auroc", "auroc_sd", "criterion", "state", "steps", "seconds", "why")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *names, *shown])
    for row in rows:
        params = [told_value(row["params"][name]) for name in names]
        writer.writerow([row["number"], *params, *(row[name] for name in shown)])
    return text.getvalue()
