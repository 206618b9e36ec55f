"""`uadray tune`: normal tiles and a few anomalies -> the configuration that tells them apart best, and a page."""

import json
from collections.abc import Sequence
from typing import Any

from uadray import __version__
from uadray.commands.cluster import join_cluster
from uadray.commands.progress import progress
from uadray.errors import InputError, WorkError
from uadray.networks import weights
from uadray.provenance import commit, fingerprint
from uadray.reports.tune_page import tune_page
from uadray.storage import objects
from uadray.training.subject import borrowed_weights
from uadray.training.tune_config import Range, TuneConfig, check_space, configured, grid_of
from uadray.training.tune_data import Asked, TuneData, check_data, check_folds, read_tune_data
from uadray.training.tune_journal import Journal, Search
from uadray.training.tune_results import (
    Row,
    best_yaml,
    left_of,
    rank_correlation,
    rows_of,
    trials_csv,
    unsupervised_choice,
)

PAGE, BEST, TABLE, FIGURES = "tune.html", "best.yaml", "trials.csv", "trials.json"

TRIALS = 30
"""Where nobody says."""


def run(
    config: TuneConfig, *, data: str, anomalies: str, out: str, asked: Asked, trials: int | None, minutes: float | None,
    grid: bool, parallel: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Search on the cluster; a folder that holds the same search goes on.

    Args:
        config: what is searched.
        data: URI of the tile set with normal tiles.
        anomalies: URI of the tile set with anomalies.
        out: URI of a folder for journal, table, page and `best.yaml`.
        asked: which anomalies are used.
        trials: how many; `TRIALS` unless given.
        minutes: of this run, at the most.
        grid: every point of the space instead.
        parallel: trials at once.

    Returns:
        The best trial, counts, and where the files are.

    Raises:
        InputError: the space or the data is unusable, or `out` holds another search.
        WorkError: no trial was finished, or some broke.
    """
    check(config, data=data, anomalies=anomalies, trials=trials, grid=grid)
    read = read_tune_data(data, anomalies, config, asked)
    check_folds(read, config.train, config.folds)
    journal = Journal(out)
    search = journal.begin(_identity(config, read, asked, grid=grid), _about(config, read, asked, grid=grid))
    for name in _borrowed(config):
        weights.ensure(name)
    points = left_of(config, journal, grid_of(config)) if grid else []
    if grid:
        journal.write(search.model_copy(update={"started": grid_of(config)}))
    n_trials = 0 if grid else trials or TRIALS
    broken: list[str] = []
    if points or n_trials:
        with progress(f"tune {config.train.name}") as tick:
            from uadray.training import tune

            join_cluster(out_uri=out)
            broken = tune.search(
                config, read, journal, n_trials=n_trials, points=points, seed=asked.seed, parallel=parallel,
                minutes=minutes, progress=tick,
            )  # fmt: skip
    return _concluded(config, journal, journal.search() or search, broken)


def check(config: TuneConfig, *, data: str, anomalies: str, trials: int | None, grid: bool) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        InputError: see `run`.
    """
    check_space(config)
    if grid and trials is not None:
        raise InputError("--grid has as many trials as the space has points; leave out --trials")
    if grid:
        grid_of(config)
    check_data(data, anomalies, config)


def _borrowed(config: TuneConfig) -> set[str]:
    """The pinned weights that any trial needs."""
    every = [{}, *({name: v} for name, vs in config.space.items() if not isinstance(vs, Range) for v in vs)]
    return {weight for assignment in every for weight in borrowed_weights(configured(config, assignment))}


def _identity(config: TuneConfig, data: TuneData, asked: Asked, *, grid: bool) -> str:
    """Of what the outcome of a search depends on. More trials, or more at once, are the same search."""
    return fingerprint([config.model_dump_json(), data.fingerprint, repr(asked.seed), repr(grid), "1"])


def _about(config: TuneConfig, data: TuneData, asked: Asked, *, grid: bool) -> dict[str, Any]:
    """What the page says of the search."""
    kinds = {kind: data.kinds.count(kind) for kind in sorted(set(data.kinds))}
    return {
        "name": config.train.name, "detector": getattr(config.train.detector, "kind", ""), "folds": config.folds,
        "parameters": list(config.space), "how": "grid" if grid else "optuna",
        "n_normals": len(data.normals), "n_anomalies": len(data.anomalies), "kinds": kinds, "known": data.known,
        "left_out": data.left_out, "unreadable": data.unreadable, "by_slide": data.by_slide, "seed": asked.seed,
        "commit": commit(), "version": __version__,
    }  # fmt: skip


def _concluded(config: TuneConfig, journal: Journal, search: Search, broken: Sequence[str]) -> dict[str, Any]:
    """Write what was found, and say it.

    Raises:
        WorkError: nothing was found, or trials broke.
    """
    rows = rows_of(config, journal, search)
    answer = search.about | {
        "rows": rows, "rank_correlation": rank_correlation(rows), "unsupervised": unsupervised_choice(rows),
        "counts": {state: sum(row["state"] == state for row in rows) for state in _states(rows)},
    }  # fmt: skip
    written = {
        FIGURES: (json.dumps(answer, indent=1), "application/json"),
        TABLE: (trials_csv(rows, list(config.space)), "text/csv"),
        PAGE: (tune_page(answer), "text/html"),
    }
    best = rows[0] if rows and rows[0]["state"] == "complete" else None
    if best is not None:
        written[BEST] = (best_yaml(config, best, n_anomalies=search.about["n_anomalies"]), "application/yaml")
    for name, (text, content_type) in written.items():
        objects.write_bytes(objects.join(journal.uri, name), text.encode(), content_type=content_type)
    if broken:
        raise WorkError(f"trials that broke: {len(broken)}; the same command tries them again; the first: {broken[0]}")
    if best is None:
        why = next((row["why"] for row in rows if row["why"]), "time was up; the same command goes on")
        raise WorkError(f"no trial was finished: {why}")
    return _answer(config, journal, answer, best)


def _states(rows: Sequence[Row]) -> list[str]:
    return [
        state for state in ("complete", "stopped", "unfinished", "failed") if any(r["state"] == state for r in rows)
    ]


def _answer(config: TuneConfig, journal: Journal, answer: dict[str, Any], best: Row) -> dict[str, Any]:
    """What the command prints."""
    shown = ("params", "auroc", "auroc_sd", "auroc_folds", "criterion", "seconds")
    named = ("name", "folds", "n_normals", "n_anomalies", "kinds", "left_out", "by_slide", "counts", "rank_correlation")
    return {
        "out": journal.uri, "best": {name: best[name] for name in shown},
        "best_config": objects.join(journal.uri, BEST), "page": objects.join(journal.uri, PAGE),
        "steps": (train := configured(config, best["params"])).epochs * train.steps_per_epoch,
        "optimistic": "the AUROC is that of tiles that were chosen with",
    } | {name: answer[name] for name in named}  # fmt: skip
