"""`bench tune`: is a configuration that was chosen with a few anomalies the best one on other slides?

    grid    `uadray tune --grid` with 20 tumour tiles, the one kind that the data has, against the truth: every point
            trained on all normal tiles and judged on valid. Goal: at most 0.02 behind the best. Beside it, with the
            same 20, Optuna with half as many trials as there are points.
    figure  the paper's figure (Tuluptceva et al. 2020, https://arxiv.org/abs/2006.13265): what is chosen with 1, 5, 20
            and 100 anomalies of 1, 2 and 3 narrow kinds, and of tumour tiles as they come, from the scores that the
            grid has kept.

Normal tiles and anomalies are of train of PatchCamelyon, the truth is told on tiles of valid, of other slides. Narrow
kinds are made by clustering, see `uadray.bench.tune_grid`. All is kept in the folder; a bench that was stopped goes on.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uadray.bench import tune_grid
from uadray.bench.detector_data import data_folder
from uadray.bench.detector_rows import config_folder
from uadray.bench.tune_figure import WITHIN, figure, figure_svg, without_anomalies
from uadray.bench.tune_grid import KINDS, OF_KIND, Point
from uadray.commands import tune as command
from uadray.config import load_config
from uadray.errors import InputError
from uadray.training.tune_config import TuneConfig, grid_of
from uadray.training.tune_data import Asked, TuneData, read_tune_data
from uadray.training.tune_journal import Journal

FOLDER = "bench-tune"
CONFIG = "small_grid.yaml"
PARTS = ("grid", "figure")

SHOWN = 20
"""Anomalies of the search, as the goal has them."""


def run(
    *, only: Sequence[str] = (), out: str | None = None, config: TuneConfig | None = None,
    data: Path | None = None, shown_n: int = SHOWN,
) -> dict[str, Any]:  # fmt: skip
    """Search the grid, tell its truth, and draw the figure.

    Args:
        only: `grid`, `figure`; both unless given.
        out: folder of the results, `bench-tune` in the current one unless given.
        config: the grid; `configs/tune/small_grid.yaml` unless given.
        data: folder with `pcam/`; the development data unless given.
        shown_n: anomalies of that search.

    Raises:
        InputError: the data is not there, or there is no such part.
    """
    if unknown := set(only) - set(PARTS):
        raise InputError(f"bench tune has no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    config = config or load_config(TuneConfig, config_folder().parent / "tune" / CONFIG)
    where, folder, began_s = (data or data_folder()) / "pcam", Path(out or FOLDER).absolute(), time.perf_counter()
    train_zip, anomalies = str(where / "train.zip"), folder / "anomalies"
    tune_grid.write_kinds(anomalies, train_zip)
    every = Asked(n=sum(1 for _ in anomalies.glob("*/*.png")))
    given: dict[str, Any] = {"data": train_zip, "anomalies": str(anomalies), "minutes": None, "parallel": None}
    command.run(config, **given, out=str(folder / "grid"), asked=every, trials=None, grid=True)
    read = read_tune_data(train_zip, str(anomalies), config, every)
    points = _points(config, read, str(where / "valid.zip"), folder)
    figures: dict[str, Any] = {"out": str(folder), "points": len(points), "normals": len(read.normals)}
    if not only or "grid" in only:
        given |= {"anomalies": str(anomalies / tune_grid.TUMOUR), "asked": Asked(n=shown_n)}
        found = command.run(config, **given, out=str(folder / "search"), trials=None, grid=True)
        optuna = command.run(config, **given, out=str(folder / "optuna"), trials=-(-len(points) // 2), grid=False)
        figures["grid"] = _grid_figures(points, found, optuna)
    if not only or "figure" in only:
        rows = figure(points, read.kinds)
        (folder / "figure.svg").write_text(figure_svg(points, rows), encoding="utf-8")
        figures |= {"figure": rows, "narrow_kinds": f"{KINDS} clusters, the {OF_KIND} tiles nearest to each centre"}
    figures |= _goals(figures) | {"seconds": round(time.perf_counter() - began_s, 1)}
    (folder / "tune.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def _points(config: TuneConfig, read: TuneData, valid_zip: str, folder: Path) -> list[Point]:
    """Every point of the grid, with its truth."""
    valid, journal = tune_grid.valid_tiles(valid_zip), Journal(str(folder / "grid"))
    threads, points = torch.get_num_threads(), []
    try:
        for params in grid_of(config):
            value = tune_grid.truth(config, params, read.normals[read.is_trained], valid, folder / "truth")
            points.append(tune_grid.point_of(config, params, journal, value))
    finally:
        torch.set_num_threads(threads)
    return points


def _grid_figures(points: Sequence[Point], found: dict[str, Any], optuna: dict[str, Any]) -> dict[str, Any]:
    """How far the searches were behind, beside choices that need none."""
    valid = [point.valid_auroc for point in points]
    best = points[int(np.argmax(valid))]
    chosen, by_optuna = (
        next(point for point in points if point.params == answer["best"]["params"]) for answer in (found, optuna)
    )
    with_all = max(points, key=lambda point: float(point.above.mean()))
    return {
        "chosen": chosen.params, "chosen_auroc": chosen.valid_auroc, "best": best.params,
        "best_auroc": best.valid_auroc, "behind": best.valid_auroc - chosen.valid_auroc,
        "told_auroc": found["best"]["auroc"], "optuna_trials": sum(optuna["counts"].values()),
        "optuna_auroc": by_optuna.valid_auroc, "optuna_behind": best.valid_auroc - by_optuna.valid_auroc,
        "mean_auroc": float(np.mean(valid)), "worst_auroc": min(valid),
        "with_all_anomalies_auroc": with_all.valid_auroc,
        "without_anomalies_auroc": without_anomalies(points).valid_auroc,
    }  # fmt: skip


def _goals(figures: dict[str, Any]) -> dict[str, Any]:
    """The goal, and whether it was met; None where it was not measured."""
    met = figures["grid"]["behind"] <= WITHIN if "grid" in figures else None
    return {"goals": {"grid.behind": f"<= {WITHIN:g}"}, "goals_met": met}
