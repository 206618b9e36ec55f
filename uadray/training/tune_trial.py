"""One trial of a search: the folds one after the other, each trained and judged in this process. Plain, without Ray."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from uadray.detectors.building import build_detector
from uadray.detectors.trainee import Trainee, UnsuitableTilesError
from uadray.errors import SYSTEM_REASONS, InputError, WorkError, reason_of
from uadray.networks.outline import Networks
from uadray.training.arithmetic import quick
from uadray.training.array_source import ArraySource, resampled
from uadray.training.config import TrainConfig, detector_of
from uadray.training.crops import Pixels
from uadray.training.loop import DivergedError, Line, Reached, Step, run_training
from uadray.training.plain import stream_of
from uadray.training.subject import build_networks, build_trainee
from uadray.training.tune_config import TuneConfig, configured, side_at
from uadray.training.tune_data import TuneData
from uadray.training.tune_journal import FoldResult, Journal, TrialLine, trial_key

WHOLE = 900
"""`progress` of a trial that is done. Rungs of the scheduler lie at a ninth of it and at a third: with three folds,
after a third of the first fold and after all of it."""

Floats = npt.NDArray[np.float64]
Report = Callable[[TrialLine], None]
Heard = Callable[[int, int, Floats, Floats], None]
"""Told of an epoch: its number, the steps so far, scores of the normal tiles, and of the anomalies."""


class TrialFailedError(WorkError):
    """A trial has no figure: its configuration cannot be trained on these tiles."""


def run_trial(
    config: TuneConfig, assignment: Mapping[str, Any], data: TuneData, journal: Journal, report: Report,
    stopped: list[TrialLine] | None = None,
) -> None:  # fmt: skip
    """Train and judge every fold that the journal does not have, and report all of them in their order.

    Args:
        config: the search.
        assignment: of this trial.
        data: the tiles.
        journal: gets each fold when it is done.
        report: told of every epoch that is judged. It may not return: then the trial was stopped.
        stopped: what the trial had reported when it was stopped in an earlier run; it ends there again.

    Raises:
        TrialFailedError: it cannot be trained.
    """
    for line in stopped or ():
        report(line)
    if stopped:
        return
    try:
        train = configured(config, assignment)
    except InputError as error:  # the values do not go together
        raise TrialFailedError(str(error)) from error
    key = trial_key(train)
    done: list[float] = []
    for fold in range(config.folds):
        result = journal.fold(key, fold)
        if result is None:
            result = _run_fold(config, train, data, fold, lambda line: report(_mean(line, done)))
            journal.keep(key, fold, result)  # the last line is told only afterwards: a trial may be stopped by it
            told = result.lines[-1:]
        else:
            told = result.lines
        if result.failed is not None:
            raise TrialFailedError(result.failed)
        for line in told:
            report(_mean(line, done))
        done.append(result.lines[-1]["fold_auroc"])


def _mean(line: TrialLine, done: list[float]) -> TrialLine:
    return line | {"auroc": float(np.mean([*done, line["fold_auroc"]]))}


def _run_fold(config: TuneConfig, train: TrainConfig, data: TuneData, fold: int, report: Report) -> FoldResult:
    """Train and judge a fold. What the configuration is to blame for is its result; all else is raised."""
    lines: list[TrialLine] = []
    ends: list[list[float]] = [[], []]

    def heard(epoch: int, step: int, normals: Floats, anomalies: Floats) -> None:
        share = (fold + (epoch + 1) / train.epochs) / config.folds
        line = {
            "fold": fold, "epoch": epoch, "step": step, "progress": float(round(WHOLE * share)),
            "fold_auroc": auroc(normals, anomalies), "criterion": float(normals.mean()),
        }  # fmt: skip
        lines.append(line)
        ends[:] = [normals.tolist(), anomalies.tolist()]
        if epoch + 1 < train.epochs:
            report(line)

    began = time.perf_counter()
    try:
        judged = judged_normals(data, fold, config.judged_normals, train.seed)
        train_and_score(config, train, data.normals[trained_on(data, fold)], judged, data.anomalies, heard)
    except (DivergedError, UnsuitableTilesError, InputError) as error:
        if reason_of(error)[0] in SYSTEM_REASONS:
            raise
        return FoldResult(failed=" ".join(str(error).split())[:400])
    return FoldResult(lines=lines, normals=ends[0], anomalies=ends[1], seconds=time.perf_counter() - began)


def trained_on(data: TuneData, fold: int) -> npt.NDArray[np.bool_]:
    """[n], which normal tiles are trained on in this turn: those of the other folds."""
    return np.asarray(data.is_trained & (data.fold != fold), np.bool_)


def judged_normals(data: TuneData, fold: int, most: int, seed: int) -> Pixels:
    """The normal tiles of a fold that are judged."""
    numbers = np.flatnonzero(data.is_judged & (data.fold == fold))
    if len(numbers) > most:
        numbers = np.sort(np.random.default_rng([seed, fold, 13]).choice(numbers, most, replace=False))
    return data.normals[numbers]


def train_and_score(
    config: TuneConfig, train: TrainConfig, tiles: Pixels, normals: Pixels, anomalies: Pixels, heard: Heard
) -> None:
    """Train on tiles as `train` says, and score the others after every epoch that leaves a detector that scores.

    In the middle a copy of what learns is finished and scored. Before its last phase a detector does not score.

    Raises:
        InputError: the tiles are smaller than its input.
        DivergedError, UnsuitableTilesError: it cannot be trained.
    """
    base = config.train.tiles
    side_px = side_at(tiles.shape[1], base.mpp, train.tiles.mpp)
    if side_px < train.input_px:
        raise InputError(f"its input is {train.input_px} px at {train.tiles.mpp:g} um; a tile has {side_px} px there")
    tiles, normals, anomalies = (resampled(part, side_px=side_px) for part in (tiles, normals, anomalies))

    def judge(networks: Networks, line: Line) -> None:
        heard(int(line["epoch"]), int(line["step"]), *_scores(train, networks, normals, anomalies))

    device = torch.device("cuda" if train.use_gpu else "cpu")
    torch.set_num_threads(train.threads or 1)
    torch.manual_seed(train.seed)
    networks = build_networks(train)
    for network in networks.values():
        network.to(device).to(memory_format=torch.channels_last)
    trainee = build_trainee(train, networks)
    stream = stream_of(train, ArraySource(tiles, train.seed), device, None)
    with quick(device):
        run_training(train, trainee, stream, _FoldHost(train, judge))


def _scores(train: TrainConfig, networks: Networks, normals: Pixels, anomalies: Pixels) -> tuple[Floats, Floats]:
    """Scores of both.

    Raises:
        DivergedError: one is no number.
    """
    detector = build_detector(detector_of(train), networks, device="cuda" if train.use_gpu else "cpu")
    scores = np.concatenate([detector(part).score for part in (normals, anomalies)])
    if bad := int((~np.isfinite(scores)).sum()):
        raise DivergedError(f"{bad} of {len(scores)} scores are no numbers")
    return scores[: len(normals)], scores[len(normals) :]


def auroc(normals: Floats, anomalies: Floats) -> float:
    """How often an anomaly scores higher than a normal tile.

    >>> auroc(np.array([1.0, 2.0]), np.array([1.5, 3.0]))
    0.75
    """
    truth = np.repeat([False, True], [len(normals), len(anomalies)])
    return float(roc_auc_score(truth, np.concatenate([normals, anomalies])))


class _FoldHost:
    """The host of a fold's training, see `uadray.training.loop.Host`. There are no checkpoints: folds are kept."""

    rank, world = 0, 1

    def __init__(self, config: TrainConfig, judge: Callable[[Networks, Line], None]) -> None:
        self._config, self._judge = config, judge

    def any_of(self, flag: bool) -> bool:
        """There is no other worker."""
        return flag

    def agree(self, networks: Networks) -> None:
        """There is no other worker."""

    def at(self, line: Line, step: Step) -> None:
        """Nobody looks at single steps."""

    def keep(self, trainee: Trainee, reached: Reached) -> None:
        """Judge what was reached."""
        line = reached.lines[-1]
        if len(reached.lines) == self._config.epochs:
            self._judge(trainee.networks, line)
        elif line["phase"] == trainee.phases[-1]:
            copied = copy.deepcopy(trainee)  # scoring freezes networks, and finishing changes them
            copied.finish()
            self._judge(copied.networks, line)
