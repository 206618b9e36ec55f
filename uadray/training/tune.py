"""A search on Ray Tune: which trials there are is Optuna's to say, which end early that of successive halving (ASHA).

A trial is a plain function in one process (`uadray.training.tune_trial`), with its CPUs or its GPU. Successive halving
(Li et al. 2020, https://arxiv.org/abs/1810.05934) looks at the mean AUROC so far, at a ninth and at a third of a trial.

Nothing of Ray's own files is read again: a search that is run again is told what its journal has, see
`uadray.training.tune_journal`. One trial at a time, it makes the very trials that it would have made.
"""

import json
import logging
import math
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from uadray.errors import InputError, WorkError
from uadray.networks import weights
from uadray.training.config import TrainConfig
from uadray.training.subject import borrowed_weights
from uadray.training.tune_config import Assignment, Range, TuneConfig, configured
from uadray.training.tune_data import TuneData
from uadray.training.tune_journal import Journal, Search, TrialLine, trial_key
from uadray.training.tune_trial import WHOLE, TrialFailedError, run_trial

log = logging.getLogger(__name__)

REDUCTION = 3
"""A third of the trials goes on at each rung."""

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table, whatever the verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else Ctrl-C would end the search as if it were done
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
}

Progress = Callable[[int, int, str], None]
"""Called with trials that ended, trials in all, and the best AUROC so far in words."""


def search(
    config: TuneConfig, data: TuneData, journal: Journal, *, n_trials: int = 0, points: Sequence[Assignment] = (),
    seed: int = 0, parallel: int | None = None, minutes: float | None = None, progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Run the trials that the journal does not have, on the Ray that this process has joined.

    Args:
        config: the search.
        data: its tiles.
        journal: its folder, in which the search was begun.
        n_trials: of Optuna's choosing.
        points: trials to make instead, of a grid; none of them ends early.
        seed: of Optuna.
        parallel: trials at once; as many as the cluster has room for unless given.
        minutes: no trial goes on after them; what is not done by then is unfinished.
        progress: told when a trial has ended.

    Returns:
        Why trials broke that may go well when they are tried again; nothing where none did.

    Raises:
        WorkError: Ray Tune has failed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that fails has a row, and no traceback here
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = journal.search() or Search(id="")
    told = _Listener(config, journal, found, n_trials or len(points), progress, minutes)
    needs = {"cpu": config.train.threads or 1, "gpu": int(config.train.use_gpu)}
    trainable = tune.with_parameters(
        _trial, settings=config.model_dump(mode="json"), data=data, journal=journal, stopped=dict(found.stopped)
    )
    space = {"point": tune.grid_search([json.dumps(point) for point in points])} if points else {}
    chosen = {} if points else {"search_alg": _optuna(config, found, seed), "scheduler": _halving()}
    with tempfile.TemporaryDirectory(prefix="uadray-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, needs),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="auroc", mode="max", num_samples=n_trials or 1, reuse_actors=True,
                max_concurrent_trials=parallel or _room(needs), time_budget_s=60 * minutes if minutes else None,
                **chosen,
            ),
            run_config=tune.RunConfig(storage_path=folder, name="tune", verbose=0, callbacks=[told]),
        )  # fmt: skip
        try:
            tuner.fit()
        except Exception as error:  # Ray raises many kinds; what the journal has stays
            said = (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
            raise WorkError(f"Ray Tune failed; the same command goes on: {said}") from error
    return told.broken


def _halving() -> Any:
    return ASHAScheduler(
        time_attr="progress", max_t=WHOLE, grace_period=WHOLE // REDUCTION**2, reduction_factor=REDUCTION
    )


def _room(needs: Mapping[str, int]) -> int:
    """Trials that the cluster has room for at once."""
    there = ray.cluster_resources()
    return max(1, min(int(there.get(name.upper(), 0)) // n for name, n in needs.items() if n))


def _trial(
    params: dict[str, Any], *, settings: dict[str, Any], data: TuneData, journal: Journal,
    stopped: dict[str, list[TrialLine]],
) -> None:  # fmt: skip
    """What a process of Ray runs for a trial."""
    config = TuneConfig.model_validate(settings)
    assignment = assignment_of(config, params)
    train = _configured(config, assignment)
    for name in borrowed_weights(train) if train is not None else ():
        weights.ensure(name)
    before = stopped.get(trial_key(train)) if train is not None else None
    run_trial(config, assignment, data, journal, tune.report, before)


def _configured(config: TuneConfig, assignment: Assignment) -> TrainConfig | None:
    """The training of a trial; None where its values do not go together."""
    try:
        return configured(config, assignment)
    except InputError:
        return None


def distributions(config: TuneConfig) -> dict[str, BaseDistribution]:
    """The space as Optuna takes it; choices are texts of JSON, for they may be lists."""
    return {name: _distribution(values) for name, values in config.space.items()}


def _distribution(values: Range | list[Any]) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution([json.dumps(value) for value in values])
    if values.is_whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def params_of(config: TuneConfig, assignment: Assignment) -> dict[str, Any]:
    """An assignment as Optuna has it."""
    return {n: v if isinstance(config.space[n], Range) else json.dumps(v) for n, v in assignment.items()}


def assignment_of(config: TuneConfig, params: Mapping[str, Any]) -> Assignment:
    """What Optuna has chosen, or a point of the grid, as an assignment."""
    if "point" in params and "point" not in config.space:
        point: Assignment = json.loads(params["point"])
        return point
    return {n: v if isinstance(config.space[n], Range) else json.loads(v) for n, v in params.items()}


def _optuna(config: TuneConfig, found: Search, seed: int) -> OptunaSearch:
    """Optuna, which begins with the trials that were begun before."""
    begun = [params_of(config, assignment) for assignment in found.started]
    sampler = SeededByTrial(seed, config.start_trials)
    return OptunaSearch(
        distributions(config), metric="auroc", mode="max", sampler=sampler, points_to_evaluate=begun or None
    )


class SeededByTrial(BaseSampler):
    """TPE (Bergstra et al. 2011) whose random numbers follow from the seed and a trial's number.

    So a search that goes on draws what it would have drawn, though the trials before were told, not drawn.
    """

    def __init__(self, seed: int, start_trials: int) -> None:
        self._seed, self._start_trials = seed, start_trials

    def _of(self, trial: FrozenTrial, name: str = "") -> TPESampler:
        drawn = [self._seed, trial.number, zlib.crc32(name.encode())]
        seed = int(np.random.SeedSequence(drawn).generate_state(1)[0])
        return TPESampler(seed=seed, n_startup_trials=self._start_trials)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What TPE says."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """What TPE says."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """What TPE says, for each parameter by random numbers of its own."""
        return self._of(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


class _Listener(tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Keeps what was begun and what was stopped, in the process of the command."""

    def __init__(
        self, config: TuneConfig, journal: Journal, found: Search, total: int, progress: Progress | None,
        minutes: float | None,
    ) -> None:  # fmt: skip
        self._config, self._journal, self._search, self._total = config, journal, found, total
        self._progress = progress
        self._ends = time.monotonic() + 60 * minutes if minutes else math.inf
        self._lines: dict[str, list[TrialLine]] = {}
        self._ended, self._best = 0, 0.0
        self.broken: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray keeps a copy on disk, which nobody reads."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep which trial it is."""
        if trial.trial_id not in self._lines:
            self._lines[trial.trial_id] = []
            assignment = assignment_of(self._config, trial.config)
            if len(self._lines) > len(self._search.started):
                self._write(started=[*self._search.started, assignment])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Remember what it told."""
        names = ("fold", "epoch", "step", "progress", "fold_auroc", "criterion", "auroc")
        self._lines[trial.trial_id].append({name: result[name] for name in names})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep what a trial told that was stopped, unless time was up."""
        lines = self._lines[trial.trial_id]
        if lines and lines[-1]["progress"] < WHOLE and time.monotonic() < self._ends:
            train = configured(self._config, assignment_of(self._config, trial.config))
            self._write(stopped=self._search.stopped | {trial_key(train): lines})
        elif lines and lines[-1]["progress"] >= WHOLE:
            self._best = max(self._best, lines[-1]["auroc"])
        self._tick()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell a configuration that cannot be trained, which the journal has, from all else."""
        path = Path(trial.error_file or "")
        said = path.read_text(encoding="utf-8").strip() if path.is_file() else "a trial ended without a word"
        why = said.splitlines()[-1]  # of a traceback: the error itself
        if TrialFailedError.__name__ not in why:
            self.broken.append(why[:300])
        self._tick()

    def _write(self, **changed: Any) -> None:
        self._search = self._search.model_copy(update=changed)
        self._journal.write(self._search)

    def _tick(self) -> None:
        self._ended += 1
        if self._progress is not None:
            best = f"best AUROC {self._best:.3f}" if self._best else ""
            self._progress(self._ended, self._total, best)
