"""The driver of a training on Ray: `fit` runs a group of workers, see `uadray.training.worker`, and watches it."""

import itertools
import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from uadray import metrics
from uadray.cluster.datasets import actor_here, in_order, shared
from uadray.cluster.interfaces import OwnInterface
from uadray.cluster.nodes import Nodes, on_this_node
from uadray.errors import InputError, WorkError, shown, shown_text
from uadray.networks.outline import Networks
from uadray.networks.weights_file import load_networks
from uadray.training.board import Board, sentence
from uadray.training.checkpoint import NETWORKS, PROGRESS
from uadray.training.config import TrainConfig
from uadray.training.loop import Line, Listener
from uadray.training.places import beginning
from uadray.training.progress_metrics import TrainingMetrics, run_of
from uadray.training.ray_dataset import TrainingData
from uadray.training.ray_validation import Validation
from uadray.training.subject import build_networks
from uadray.training.validation import Validator
from uadray.training.worker import shard_name, train_worker

log = logging.getLogger(__name__)

RUN = "checkpoints"
"""Name of Ray Train's run: the folder of the checkpoints."""


class Losses(ray.train.UserCallback):  # type: ignore[misc]  # Ray is untyped
    """Tells the board of groups that failed; lives in Ray Train's controller."""

    def __init__(self, board: Any, epochs_done: int, most: int) -> None:
        self._board, self._epochs_done, self._restarts, self._most = board, epochs_done, 0, most

    def after_report(self, run_context: Any, metrics: list[Line], checkpoint: Any) -> None:
        """A checkpoint is kept."""
        self._epochs_done = int(metrics[0]["epoch"]) + 1

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A group has failed."""
        self._restarts += 1
        errors = {rank: "" if _is_gone(error) else sentence(error) for rank, error in worker_exceptions.items()}
        self._board.lose.remote(errors, self._restarts, self._most, self._epochs_done)


def _is_gone(error: Exception) -> bool:
    """Whether a worker's process ended without a word, alone or with its node."""
    cause = getattr(error, "health_check_failure", error)
    return isinstance(cause, ray.exceptions.RayActorError)


def fit(
    config: TrainConfig, data: Sequence[TrainingData], *, filesystem: Any, path: str, listener: Listener,
    nodes: Nodes | None = None, validator: Validator | None = None,
) -> tuple[Networks, Line]:  # fmt: skip
    """Run the worker group to the end, going on from the last checkpoint under `path` if there is one.

    A group that fails is started again from the last checkpoint, `max_failures` times; that is logged, as are slides
    that give no tiles.

    Args:
        config: the run.
        data: what is trained on, of each of the labels.
        filesystem: pyarrow filesystem of `path`.
        path: folder for Ray Train's checkpoints.
        listener: told about once a second of the lines and samples that came.
        nodes: that are used.
        validator: of checkpoints, as often as the configuration says, beside the training.

    Returns:
        The trained networks on the CPU, and the last epoch's metrics.

    Raises:
        InputError: an elastic group has only a share of the cluster.
        WorkError: the workers failed for good, or the training diverged.
    """
    board, nodes = actor_here(Board), nodes or Nodes()
    if config.min_workers is not None and nodes.share != 1:
        raise InputError("min_workers: trainings side by side have groups of one size; leave it out")
    validation = _validation(config, validator, board, nodes) if validator is not None else None
    trainer = _trainer(config, data, board, nodes, filesystem=filesystem, path=path, validation=validation)
    counts = TrainingMetrics(config, run_of(path), cores=(nodes.job_cpus(), nodes.gpus() if config.use_gpu else 0))
    try:
        result = _watched(config, trainer.fit, partial(_look, board, [part.journal for part in data], listener, counts))
    finally:
        metrics.end_run()
    if result.checkpoint is None:
        raise WorkError(f"{path}: the training ended without a checkpoint")
    networks = build_networks(config, pretrained=False)
    with result.checkpoint.as_directory() as folder:
        load_networks(Path(folder) / NETWORKS, networks)
    return networks, result.metrics or {}


def _trainer(
    config: TrainConfig, data: Sequence[TrainingData], board: Any, nodes: Nodes, *, filesystem: Any, path: str,
    validation: Any,
) -> Any:  # fmt: skip
    """Ray Train's trainer of the worker group."""
    gpus = {"GPU": 1} if config.use_gpu else {}
    cpus = worker_cpus(config.workers, nodes.job_cpus()) if config.min_workers is None else 1.0
    progress = last_progress(filesystem, path)
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "board": board,
            "n_tiles": [part.n_tiles for part in data],
            "validates": validation is not None,
        },
        torch_config=OwnInterface(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers if config.min_workers is None else (config.min_workers, config.workers),
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": cpus} | gpus,
            label_selector=nodes.selector(),
        ),
        run_config=ray.train.RunConfig(
            name=RUN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[Losses(board, int(progress["epochs_done"]) if progress else 0, config.max_failures)],
        ),
        # called for every group of workers, so that each begins with the tiles that its checkpoint has not seen
        datasets={
            shard_name(number): partial(_dataset, _read_beside(config, part, nodes), number, config, filesystem, path)
            for number, part in enumerate(data)
        },
        dataset_config=in_order(selector=nodes.selector()),
        validation_config=validation,
    )


def _validation(config: TrainConfig, validator: Validator, board: Any, nodes: Nodes) -> Any:
    """How Ray Train validates: on a GPU that no worker has, or on CPUs."""
    gpus = 1.0 if config.use_gpu and nodes.gpus() > config.workers else 0.0
    validation = Validation(config.model_dump(mode="json"), shared(validator), board, gpus)
    placed = {"num_cpus": 0, "scheduling_strategy": on_this_node()}
    return ray.train.ValidationConfig(fn=validation, ray_remote_kwargs=placed)


def _read_beside(config: TrainConfig, data: TrainingData, nodes: Nodes) -> TrainingData:
    """The data; read by tasks that ask for no CPU, and are counted instead, where several datasets share few CPUs.

    Ray grants each dataset a whole number of the CPUs that are left, the first one all of them, and an elastic group
    may take every CPU: readers that ask for one would wait for ever.
    """
    if nodes.share == 1 and config.min_workers is None and len(config.labels) == 1:
        return data
    workers = config.workers if config.min_workers is None else config.min_workers
    left = nodes.job_cpus() - workers * worker_cpus(workers, nodes.job_cpus())
    return replace(data, task_cpus=0.0, most_tasks=max(1, int(left / len(config.labels))))


def _look(board: Any, journals: list[Any], listener: Listener, counts: TrainingMetrics) -> None:
    news, *unread = ray.get([board.take.remote(), *(journal.take.remote() for journal in journals)])
    for loss in news.losses:
        log.warning("%s", loss)
        metrics.count(metrics.RETRIES, cause="crashed")
    for warning in news.warnings:
        log.warning("%s", warning)
    counts.tell(news.lines, news.tally)
    for name, why in itertools.chain.from_iterable(unread):
        log.warning("%s gives no more tiles to this training: %s", shown(name), shown_text(why))
    listener(news.lines, news.samples)
    if news.diverged is not None:
        raise news.diverged


def last_progress(filesystem: Any, path: str) -> dict[str, Any] | None:
    """What the last checkpoint under `path` says of itself; None where there is none."""
    try:
        result = ray.train.Result.from_path(f"{path}/{RUN}", storage_filesystem=filesystem)
    except RuntimeError:  # no run, or none that has come to a checkpoint
        return None
    if result.checkpoint is None:
        return None
    with result.checkpoint.filesystem.open_input_stream(f"{result.checkpoint.path}/{PROGRESS}") as file:
        progress: dict[str, Any] = json.loads(file.read())
    return progress


def _dataset(data: TrainingData, number: int, config: TrainConfig, filesystem: Any, path: str) -> Any:
    """The dataset of a label, from where the last checkpoint was."""
    begun = beginning(last_progress(filesystem, path), number, config=config, tiles_per_pass=data.n_tiles)
    return data.dataset(first_block=begun.first_block, empty_rows=begun.empty_rows)


def worker_cpus(workers: int, n_cpus: float) -> float:
    """CPUs that each worker asks Ray for: one, or less where the readers would be left without any and wait for ever.

    A job of fewer than two CPUs (its share of a cluster) leaves half of them to its readers.

    >>> worker_cpus(1, 2), worker_cpus(2, 2), worker_cpus(4, 16), worker_cpus(1, 2 / 3)
    (1.0, 0.5, 1.0, 0.3333)
    """
    return min(1.0, math.floor(max(n_cpus - 1, n_cpus / 2) / workers * 1e4) / 1e4)


def _watched(config: TrainConfig, run: Callable[[], Any], look: Callable[[], None]) -> Any:
    """Call `run` in a thread and `look` about once a second until it ends."""
    outcome: dict[str, Any] = {}

    def target() -> None:
        try:
            outcome["result"] = run()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=target, name="train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=1.0)
        look()
    look()
    if "error" in outcome:
        why = _cause(config, outcome["error"])
        raise WorkError(
            f"training failed: {why}; the same command with --resume goes on from the last epoch"
        ) from outcome["error"]
    return outcome["result"]


def _cause(config: TrainConfig, error: Exception) -> str:
    """In a line, of a group's errors that of a worker that can say something."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    said = [sentence(failure) for _, failure in sorted(failures.items()) if not _is_gone(failure)]
    if failures and not said:
        return f"worker {min(failures)} was lost (its process or node died), after {config.max_failures} restarts"
    return said[0] if said else sentence(error)
