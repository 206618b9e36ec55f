"""The results of `bench detectors` on disk: one file a row and seed, written as they come; then the whole table.

A bench that was killed goes on with the same folder: what is there of the same configuration, budget and data is kept.
A row that failed is tried again.
"""

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RECOMMENDED = "enlarged_nuclei"

GOALS: dict[str, tuple[str, float]] = {
    "tiles.auroc": (">=", 0.88),
    "tiles.sensitivity_at_95_specificity": (">=", 0.44),
    "shifted.swapped.drop": ("<", 0.03),
    "shifted.faded.drop": ("<", 0.03),
    "slides.test.auroc": (">=", 1.0),
    "slides.test.called": (">=", 7),
    "slides.test.false_alarms": ("<=", 0),
    "slides.small.called": (">=", 10),
    "slides.small.false_alarms": ("<=", 1),
}
"""Of the recommended detector, on the mean of its seeds."""

AIMS = {"tiles.auroc": 0.90, "tiles.sensitivity_at_95_specificity": 0.60, "slides.small.called": 14}
"""What was hoped for beyond the goals; not judged."""

Figures = dict[str, Any]


def result_path(out: Path, name: str, seed: int) -> Path:
    """The file of a row and seed."""
    return out / "rows" / f"{name}-seed{seed}.json"


def kept(path: Path, key: str) -> Figures | None:
    """The result of an earlier run, unless it is of something else, failed, or was not written to its end."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("key") == key and "failed" not in result else None


def keep(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    part.replace(path)


def joined(name: str, results: Sequence[Figures]) -> Figures:
    """A row: the means of its seeds' figures, and what each seed had; `failed` where none has figures."""
    good = [result for result in results if "failed" not in result]
    first = (good or results)[0]
    row: Figures = {name: first[name] for name in ("group", "source") if name in first}
    row |= {"name": name, "seeds": [result["seed"] for result in good]}
    if failures := {str(result["seed"]): result["failed"] for result in results if "failed" in result}:
        row["failed"] = failures
    if good:
        row |= {"mean": _mean([result["figures"] for result in good]), "by_seed": [_spoken(result) for result in good]}
    return row


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers at each place of nested figures; None where one seed has none, the first of anything else."""
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, Mapping):
        return {name: _mean([value[name] for value in values if name in value]) for name in first}
    if isinstance(first, list):
        return [_mean(items) for items in zip(*values, strict=True)]
    if isinstance(first, int | float) and not isinstance(first, bool):
        return first if all(value == first for value in values) else statistics.fmean(values)
    return first


def _spoken(result: Figures) -> Figures:
    """What a seed had, without its curve."""
    return {name: result[name] for name in ("seed", "commit", "device") if name in result} | {
        name: value for name, value in result["figures"].items() if name != "roc"
    }


def figure(row: Figures, path: str) -> Any:
    """A figure of a row by its path, like `slides.test.called`; None where there is none."""
    value: Any = row.get("mean")
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def goals_met(rows: Sequence[Figures]) -> bool | None:
    """Whether the recommended detector's row has what it is to have; None where it is not among the rows."""
    for row in rows:
        if row["name"] == RECOMMENDED:
            return all(_is_met(figure(row, path), *goal) for path, goal in GOALS.items())
    return None


def _is_met(value: float | None, sign: str, goal: float) -> bool:
    if value is None:
        return False
    return value >= goal if sign == ">=" else value <= goal if sign == "<=" else value < goal


COLUMNS = {
    "auroc": "tiles.auroc",
    "average_precision": "tiles.average_precision",
    "sensitivity_at_95_specificity": "tiles.sensitivity_at_95_specificity",
    "auroc_with_tissue": "tiles_with_tissue.auroc",
    "sensitivity_with_tissue": "tiles_with_tissue.sensitivity_at_95_specificity",
    "auroc_swapped": "shifted.swapped.auroc",
    "drop_swapped": "shifted.swapped.drop",
    "auroc_faded": "shifted.faded.auroc",
    "drop_faded": "shifted.faded.drop",
    "specificity_at_held_threshold": "tiles.specificity_at_held_threshold",
    "sensitivity_at_held_threshold": "tiles.sensitivity_at_held_threshold",
    "choosing_auroc": "choosing_auroc",
    "test_auroc": "slides.test.auroc",
    "test_called": "slides.test.called",
    "test_false_alarms": "slides.test.false_alarms",
    "small_auroc": "slides.small.auroc",
    "small_called": "slides.small.called",
    "small_false_alarms": "slides.small.false_alarms",
    "tiles_per_s": "tiles_per_s",
    "cpu_ms_per_tile": "cpu_ms_per_tile",
    "minutes_to_train": "training.minutes",
    "wall_minutes_to_train": "training.wall_minutes",
    "training_cpu_s": "training.cpu_s",
    "steps": "training.steps",
    "steps_configured": "training.steps_configured",
    "tiles_seen": "training.tiles_seen",
}
"""Of the CSV: name -> path of the figure."""


def csv_of(rows: Sequence[Figures]) -> str:
    """One line a row; figures are means of the seeds."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["name", "group", "seeds", "auroc_ci95_low", "auroc_ci95_high", *COLUMNS, "failed"])
    for row in rows:
        ends = figure(row, "tiles.auroc_ci95") or ["", ""]
        values = ["" if (value := figure(row, path)) is None else value for path in COLUMNS.values()]
        failed = "; ".join(f"seed {seed}: {why}" for seed, why in row.get("failed", {}).items())
        writer.writerow([row["name"], row["group"], len(row["seeds"]), *ends, *values, failed])
    return sink.getvalue()


def by_auroc(rows: Sequence[Figures]) -> list[Figures]:
    """The highest AUROC first, rows without one last."""
    return sorted(rows, key=lambda row: -(figure(row, "tiles.auroc") or 0.0))
