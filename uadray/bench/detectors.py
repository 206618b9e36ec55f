"""`bench detectors`: every detector in one table, trained on normal tiles alone within a budget, judged on real tiles.

Rows are the detectors of the catalog (one a file of `configs/train`, or with the defaults of their configuration), two
scores that need no model, and a logistic regression that was shown tumour, as an upper reference. Which tiles are used
for what is said in `detector_data`; nothing is chosen on what is reported, and the bench itself chooses nothing but the
reference's strength, by cross-validation on train. `choosing_auroc` is that of the tiles which configurations may be
chosen with: 1,000 held-out normals and 200 tumour tiles of train.

Tiles have 0.972 um a pixel; a detector of another pixel size gets them resampled, for training and for scoring, from
tiles of the set and of slides alike. All is done in this process, without Ray. Intervals of the AUROC take tiles for
independent, for PatchCamelyon does not say of which slide a tile is.

`detectors.json`, `detectors.csv` and `detectors.html` are written anew after each row and seed.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from uadray.bench.detector_data import DetectorData, Sizes, data_folder, read_data
from uadray.bench.detector_figures import ALPHA, figures_of, machine
from uadray.bench.detector_results import (
    AIMS,
    GOALS,
    RECOMMENDED,
    by_auroc,
    csv_of,
    goals_met,
    joined,
    keep,
    kept,
    result_path,
)
from uadray.bench.detector_rows import Row, config_folder, maker, rows
from uadray.decisions.aggregation import new_aggregation
from uadray.errors import InputError
from uadray.provenance import commit, fingerprint
from uadray.reports.detectors_page import detectors_page

log = logging.getLogger(__name__)

MINUTES = 5.0
"""Of training, a detector and seed."""

FOLDER = "bench-detectors"
"""In the current folder, where no other is given."""

VERSION = 1
"""Of the figures: results of another version are made anew."""

MOST_SEEDS = 20
"""Of a row that are looked for in the folder."""

Results = dict[str, dict[int, dict[str, Any]]]
"""By row, the results by seed."""


def run(
    *, only: Sequence[str] = (), seeds: int = 1, minutes: float = MINUTES, out: str | None = None, device: str = "cpu",
    sizes: Sizes | None = None, configs: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, score and compare; a detector that fails has a row that says so.

    Args:
        only: names of rows to make; all unless given. Other rows and seeds that the folder has stay in the table.
        seeds: trainings of each row, with the seeds 0, 1, ...
        minutes: of training, a detector and seed; the supervised reference takes what it takes.
        out: folder of the results, kept from run to run: what is there of the same data, configuration and budget is
            not made again. `bench-detectors` in the current folder unless given.
        device: "cpu" or "cuda".
        sizes: how many tiles of train are used for what.
        configs: folder of the configurations; that of the checkout unless given.

    Raises:
        InputError: the data is not there, or there is no such row.
    """
    sizes, folder = sizes or Sizes(), Path(out or FOLDER).absolute()
    every, left_out = rows(configs or config_folder())
    chosen = _chosen(only, every)
    where = data_folder()
    budget = {"minutes": minutes, "seeds": seeds, "device": device}
    about = _about(where, sizes) | {"budget": budget, "left_out": left_out}
    key_of = partial(_key, minutes=minutes, device=device, data=about["data"])
    results = _kept(folder, every, key_of)
    data: DetectorData | None = None
    for seed in range(seeds):
        for row in (row for row in chosen if row.is_seeded or not seed):
            if seed not in results[row.name]:
                data = data or read_data(where, sizes)
                result = _result(row, data, seed, minutes, device, sizes) | {"key": key_of(row, seed)}
                keep(result_path(folder, row.name, seed), result)
                _tell(row, result)
                results[row.name][seed] = result
                _write(folder, results, about)
    return _write(folder, results, about)


def _kept(folder: Path, every: Sequence[Row], key_of: Callable[[Row, int], str]) -> Results:
    """What the folder has of the same configurations, budget and data; results of other commits are named."""
    results: Results = {row.name: {} for row in every}
    for row in every:
        for seed in range(MOST_SEEDS):
            result = kept(result_path(folder, row.name, seed), key_of(row, seed))
            if result is not None:
                results[row.name][seed] = result
                if result["commit"] != commit():
                    log.warning("row %s, seed %d: kept, of commit %s", row.name, seed, result["commit"])
    return results


def _chosen(only: Sequence[str], every: Sequence[Row]) -> list[Row]:
    if unknown := set(only) - {row.name for row in every}:
        names = ", ".join(row.name for row in every)
        raise InputError(f"bench detectors has no row {', '.join(sorted(unknown))}; there are: {names}")
    return [row for row in every if not only or row.name in only]


def _result(row: Row, data: DetectorData, seed: int, minutes: float, device: str, sizes: Sizes) -> dict[str, Any]:
    """The figures of a row and seed, or why there are none."""
    about = {"row": row.name, "group": row.group, "source": row.source, "seed": seed, "device": device} | {
        "commit": commit(), "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    make = maker(row, data, seed=seed, minutes=minutes, device=device, sizes=sizes)
    try:
        score, training = make()
        figures = figures_of(score, data) | {"training": training} | machine()
    except Exception as error:  # a detector that cannot be trained must not cost the others their rows
        log.debug("row %s", row.name, exc_info=True)
        return about | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    return about | {"figures": figures}


def _tell(row: Row, result: dict[str, Any]) -> None:
    seed = result["seed"]
    if "failed" in result:
        log.warning("row %s, seed %d: no figures: %s", row.name, seed, result["failed"])
    else:
        log.info("row %s, seed %d: AUROC %.3f", row.name, seed, result["figures"]["tiles"]["auroc"])


def _about(where: Path, sizes: Sizes) -> dict[str, Any]:
    """The data and what of it is used for what, as the page says it; nothing is decoded."""
    files = [where / "pcam" / name for name in ("train.zip", "valid.zip")]
    files += sorted((where / "mosaics").glob("*/manifest.csv"))
    return {
        "data": fingerprint([f"{path.name}:{path.stat().st_size}" for path in files] + [repr(sizes)]),
        "held_normals": sizes.held_normals,
        "known_tumours": sizes.known_tumours,
        "alpha": ALPHA,
        "aggregation": new_aggregation().model_dump(mode="json"),
    }


def _key(row: Row, seed: int, *, minutes: float, device: str, data: str) -> str:
    """What a result depends on, but for the code: that is said by its commit."""
    config = row.config.model_dump_json() if row.config else ""
    aggregation = new_aggregation().model_dump_json()
    return fingerprint([str(VERSION), row.name, config, str(seed), repr(float(minutes)), device, data, aggregation])


def _write(folder: Path, results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Write the table of what there is so far; returns what the command prints."""
    made = {name: [of_row[seed] for seed in sorted(of_row)] for name, of_row in results.items() if of_row}
    table = by_auroc([joined(name, of_row) for name, of_row in made.items()])
    answer = {
        **about,
        "recommended": RECOMMENDED,
        "goals": {path: f"{sign} {goal:g}" for path, (sign, goal) in GOALS.items()},
        "aims": AIMS,
        "goals_met": goals_met(table),
        "rows": table,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "detectors.json").write_text(json.dumps(answer, indent=1), encoding="utf-8")
    (folder / "detectors.csv").write_text(csv_of(table), encoding="utf-8")
    (folder / "detectors.html").write_text(detectors_page(answer), encoding="utf-8")
    return {"out": str(folder)} | answer | {"rows": [_without_curve(row) for row in table]}


def _without_curve(row: dict[str, Any]) -> dict[str, Any]:
    if "mean" not in row:
        return row
    return row | {"mean": {name: value for name, value in row["mean"].items() if name != "roc"}}
