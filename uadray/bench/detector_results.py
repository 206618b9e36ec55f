"""The results of `bench detectors` on disk: one file a row, budget and seed, written as they come; then the table.

A bench that was killed goes on with the same folder: what is there of the same configuration and data is kept, at each
budget that it was made with. A row that failed is tried again.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
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


def result_path(out: Path, name: str, budget: str, seed: int) -> Path:
    """The file of a row, budget and seed."""
    return out / "rows" / "-".join([name, *([budget.replace(" ", "_")] if budget else []), f"seed{seed}.json"])


def kept(out: Path) -> Iterator[Figures]:
    """The results of earlier runs that have figures; what was not written to its end is none."""
    for path in sorted((out / "rows").glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(result, dict) and {"row", "group", "seed", "budget", "key", "figures"} <= set(result):
            yield result


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
    row: Figures = {name: first[name] for name in ("group", "source", "budget") if name in first}
    row |= {"name": name, "seeds": [result["seed"] for result in good]}
    if failures := {str(result["seed"]): result["failed"] for result in results if "failed" in result}:
        row["failed"] = failures
    if good:
        row |= {"mean": _mean([result["figures"] for result in good]), "by_seed": [_spoken(result) for result in good]}
        row["above_trivial"] = is_above_trivial(row)
    return row


def is_above_trivial(row: Figures) -> bool | None:
    """Whether the AUROC is above that of every trivial score, by the paired intervals; None where that is not known.

    False says no more than that it has not been shown.
    """
    found = figure(row, "above_trivial")
    if row["group"] == "trivial score" or not isinstance(found, Mapping):
        return None
    ends = [each["ci95"] for each in found.values()]
    return all(end[0] > 0 for end in ends) if all(ends) else None


def labelled(rows: Sequence[Figures]) -> list[Figures]:
    """The rows with `label`: their name, and their budget where another row has the same name."""
    names = [row["name"] for row in rows]
    return [
        row | {"label": f"{row['name']}, {row['budget']}" if names.count(row["name"]) > 1 else row["name"]}
        for row in rows
    ]


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
    "above_mean_saturation": "above_trivial.mean_saturation.difference",
    "above_minus_mean_green": "above_trivial.minus_mean_green.difference",
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
    "crops_seen": "training.tiles_seen",
    "tiles_of_train": "training.tiles_of_train",
    "scored_every": "scored.every",
    "valid_tiles_scored": "scored.valid",
    "lpips_normal": "pictures.normal.lpips",
    "lpips_tumour": "pictures.tumour.lpips",
    "lpips_tumour_over_normal": "pictures.lpips_ratio",
    "lpips_auroc": "pictures.lpips_auroc",
    "l1_normal": "pictures.normal.l1",
    "l1_tumour": "pictures.tumour.l1",
    "mapping_ms_per_tile": "mapping.ms_per_tile",
    "mapping_cpu_ms_per_tile": "mapping.cpu_ms_per_tile",
    "mapping_steps": "mapping.steps",
    "mapping_steps_configured": "training.mapping.steps",
    "generator": "training.generator.name",
    "generator_kind": "training.generator.kind",
    "generator_images": "training.generator.images_shown",
}
"""Of the CSV: name -> path of the figure."""


def csv_of(rows: Sequence[Figures]) -> str:
    """One line a row; figures are means of the seeds."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    ends_of = {
        "auroc": "tiles.auroc_ci95",
        "above_mean_saturation": "above_trivial.mean_saturation.ci95",
        "auroc_with_tissue": "tiles_with_tissue.auroc_ci95",
        "lpips_normal": "pictures.normal.lpips_ci95",
    }
    heads = [f"{name}_ci95_{end}" for name in ends_of for end in ("low", "high")]
    writer.writerow(["name", "group", "budget", "seeds", *heads, "above_trivial", *COLUMNS, "failed"])
    for row in rows:
        ends = [end for path in ends_of.values() for end in figure(row, path) or ["", ""]]
        above = "" if row.get("above_trivial") is None else row["above_trivial"]
        values = ["" if (value := figure(row, path)) is None else value for path in COLUMNS.values()]
        failed = "; ".join(f"seed {seed}: {why}" for seed, why in row.get("failed", {}).items())
        about = [row["name"], row["group"], row.get("budget", ""), len(row["seeds"])]
        writer.writerow([*about, *ends, above, *values, failed])
    return sink.getvalue()


def by_auroc(rows: Sequence[Figures]) -> list[Figures]:
    """The highest AUROC first, rows without one last."""
    return sorted(rows, key=lambda row: -(figure(row, "tiles.auroc") or 0.0))
