"""Training on Ray: the worker, which is a host of `uadray.training.loop`, and `fit`, which runs a group of them."""

import itertools
import json
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from uadray import metrics
from uadray.cluster.datasets import actor_here, in_order
from uadray.cluster.interfaces import OwnInterface
from uadray.cluster.nodes import Nodes
from uadray.detectors.trainee import Trainee, UnsuitableTilesError, alone
from uadray.errors import WorkError, shown, shown_text
from uadray.networks.outline import Networks
from uadray.networks.weights_file import load_networks
from uadray.training.arithmetic import quick
from uadray.training.board import MAX_RESTARTS, Board, Tally, sentence
from uadray.training.captured import capture_steps
from uadray.training.checkpoint import NETWORKS, PROGRESS, load_checkpoint, load_progress, save_checkpoint
from uadray.training.collapse import CollapsedError
from uadray.training.config import TrainConfig
from uadray.training.group import any_of_group, average_over_group, take_over_first, threads_of, told_to_all
from uadray.training.joined import Joined
from uadray.training.loop import DivergedError, Line, Listener, Reached, Step, pictures_of, run_training
from uadray.training.parts import from_place
from uadray.training.passes import endless_passes
from uadray.training.places import Beginning, beginning
from uadray.training.progress_metrics import TrainingMetrics, run_of
from uadray.training.ray_dataset import TrainingData, dealt_parts
from uadray.training.stream import TileStream
from uadray.training.subject import build_networks, build_trainee

log = logging.getLogger(__name__)

RUN = "checkpoints"
"""Name of Ray Train's run: the folder of the checkpoints."""

TELL_S = 1.0
"""How often each worker tells what it has done: the driver counts it, since workers may live shortly."""


class RayWorker:
    """One worker of a group as host of the loop, see `uadray.training.loop.Host`. Rank 0 tells the board."""

    def __init__(self, config: TrainConfig, board: Any, streams: Sequence[TileStream], device: torch.device) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self._config, self._board, self._streams, self._device = config, board, streams, device
        self._tally, self._since, self._told_at = Tally(), time.perf_counter(), time.perf_counter()

    def any_of(self, flag: bool) -> bool:
        """Ask the group."""
        return any_of_group(flag, self._device) if self.world > 1 else flag

    def agree(self, networks: Networks) -> None:
        """Take over the networks of rank 0."""
        if self.world > 1:
            take_over_first(networks)
        self._since = time.perf_counter()

    def at(self, line: Line, step: Step) -> None:
        """Count a step, and tell of it."""
        now = time.perf_counter()
        if step.tiles:
            self._tally.add(step, seconds=now - self._since)
        self._since = now
        if self.rank == 0:
            self._board.post.remote(line)
        if now - self._told_at > TELL_S:
            self._told_at = now
            self._tell()

    def keep(self, trainee: Trainee, reached: Reached) -> None:
        """Checkpoint and samples from rank 0; every worker reports its last line."""
        line, places = reached.lines[-1], self._places()
        ray.get(self._tell())
        if self.rank:
            ray.train.report(line)
        else:
            ray.get(self._board.post.remote(line | {"end_of_epoch": True}, pictures_of(trainee, reached.samples)))
            with tempfile.TemporaryDirectory() as folder:
                save_checkpoint(Path(folder), self._config, trainee, reached, places=places)
                ray.train.report(line, checkpoint=ray.train.Checkpoint.from_directory(folder))
        self._since = time.perf_counter()

    def _places(self) -> list[list[dict[str, int]]]:
        """Where the streams stand, for each label that of every worker."""
        places = [asdict(stream.place) for stream in self._streams]
        said = [
            told_to_all(list(place.values()), self._device) if self.world > 1 else [list(place.values())]
            for place in places
        ]
        return [[dict(zip(place, each, strict=True)) for each in of] for place, of in zip(places, said, strict=True)]

    def _tell(self) -> Any:
        """Tell the board what this worker has done since the last time."""
        tally, self._tally = self._tally, Tally()
        return self._board.count.remote(tally)


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs; `settings` holds the configuration as a dict, and the board."""
    config = TrainConfig.model_validate(settings["config"])
    board = settings["board"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    board.sits.remote(rank, ray.util.get_node_ip_address())
    torch.set_num_threads(threads_of(config.threads, _node_cpus(), context.get_local_world_size()))
    torch.manual_seed(config.seed)
    device = ray.train.torch.get_device() if config.use_gpu else torch.device("cpu")
    networks = build_networks(config)
    for network in networks.values():
        network.to(device).to(memory_format=torch.channels_last)
    trainee = build_trainee(config, networks, average=average_over_group if world > 1 else alone)
    reached, progress = _restored(config, trainee, device)
    streams = _streams(config, device, settings["n_tiles"], progress, rank=rank, world=world)
    if config.captured and world == 1:
        capture_steps(trainee, device)
    for line in reached.lines if reached and rank == 0 else ():  # the driver may have been killed before it wrote them
        ray.get(board.post.remote(line | {"end_of_epoch": True}))
    try:
        with quick(device):
            host = RayWorker(config, board, streams, device)
            run_training(config, trainee, Joined(streams) if config.classifier else streams[0], host, reached)
    except (DivergedError, CollapsedError, UnsuitableTilesError) as error:
        ray.get(board.diverge.remote(error))  # and end in all workers: a failure would be tried again


def _streams(
    config: TrainConfig, device: torch.device, n_tiles: Sequence[int], progress: dict[str, Any] | None, *, rank: int,
    world: int,
) -> list[TileStream]:  # fmt: skip
    """This worker's batches: of each label its part, from where the last checkpoint was."""
    return [
        batches(
            ray.train.get_dataset_shard(shard_name(number)), config.of_label(number), device, tiles_per_pass=in_pass,
            begun=beginning(progress, number, config=config, tiles_per_pass=in_pass), rank=rank, world=world,
        )
        for number, in_pass in enumerate(n_tiles)
    ]  # fmt: skip


def shard_name(number: int) -> str:
    """What Ray Train calls the dataset of a label.

    >>> shard_name(0), shard_name(1)
    ('train', 'train_1')
    """
    return f"train_{number}" if number else "train"


def _restored(
    config: TrainConfig, trainee: Trainee, device: torch.device
) -> tuple[Reached | None, dict[str, Any] | None]:
    """What the last checkpoint had reached, the trainee filled with it, and its progress; (None, None) without one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None, None
    with checkpoint.as_directory() as folder:
        return load_checkpoint(Path(folder), config, trainee, device), load_progress(Path(folder))


def batches(
    shard: Any, config: TrainConfig, device: torch.device, *, tiles_per_pass: int, begun: Beginning | None = None,
    rank: int = 0, world: int = 1,
) -> TileStream:  # fmt: skip
    """The stream of a worker: X [batch, 3, input, input] in [-1, 1] without end.

    Args:
        shard: of a dataset of `uadray.training.ray_dataset`, which began as `begun` says.
        config: of the training.
        device: gets the batches.
        tiles_per_pass: of the dataset.
        begun: None where it began with the first block.
        rank: of the worker.
        world: workers of the group.
    """
    begun = begun or Beginning()
    passes = endless_passes(tiles_per_pass, seed=config.seed, input_px=config.input_px)
    rows = shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=4)
    parts = dealt_parts(rows, config.input_px, rank=rank, world=world, first_row=begun.first_row)
    place = begun.place(rank, world)
    return TileStream(
        from_place(parts, place), config, blocks_per_pass=passes.blocks_per_pass, device=device, place=place
    )


class Losses(ray.train.UserCallback):  # type: ignore[misc]  # Ray is untyped
    """Tells the board of groups that failed; lives in Ray Train's controller."""

    def __init__(self, board: Any, epochs_done: int) -> None:
        self._board, self._epochs_done, self._restarts = board, epochs_done, 0

    def after_report(self, run_context: Any, metrics: list[Line], checkpoint: Any) -> None:
        """A checkpoint is kept."""
        self._epochs_done = int(metrics[0]["epoch"]) + 1

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A group has failed."""
        self._restarts += 1
        errors = {rank: "" if _is_gone(error) else sentence(error) for rank, error in worker_exceptions.items()}
        self._board.lose.remote(errors, self._restarts, self._epochs_done)


def _is_gone(error: Exception) -> bool:
    """Whether a worker's process ended without a word, alone or with its node."""
    cause = getattr(error, "health_check_failure", error)
    return isinstance(cause, ray.exceptions.RayActorError)


def fit(
    config: TrainConfig, data: Sequence[TrainingData], *, filesystem: Any, path: str, listener: Listener,
    nodes: Nodes | None = None,
) -> tuple[Networks, Line]:  # fmt: skip
    """Run the worker group to the end, going on from the last checkpoint under `path` if there is one.

    A group that fails is started again from the last checkpoint, `MAX_RESTARTS` times; that is logged, as are slides
    that give no tiles.

    Args:
        config: the run.
        data: what is trained on, of each of the labels.
        filesystem: pyarrow filesystem of `path`.
        path: folder for Ray Train's checkpoints.
        listener: told about once a second of the lines and samples that came.
        nodes: that are used.

    Returns:
        The trained networks on the CPU, and the last epoch's metrics.

    Raises:
        WorkError: the workers failed for good, or the training diverged.
    """
    board, nodes = actor_here(Board), nodes or Nodes()
    trainer = _trainer(config, data, board, nodes, filesystem=filesystem, path=path)
    counts = TrainingMetrics(config, run_of(path), cores=(nodes.job_cpus(), nodes.gpus() if config.use_gpu else 0))
    try:
        result = _watched(trainer.fit, partial(_look, board, [part.journal for part in data], listener, counts))
    finally:
        metrics.end_run()
    if result.checkpoint is None:
        raise WorkError(f"{path}: the training ended without a checkpoint")
    networks = build_networks(config, pretrained=False)
    with result.checkpoint.as_directory() as folder:
        load_networks(Path(folder) / NETWORKS, networks)
    return networks, result.metrics or {}


def _trainer(
    config: TrainConfig, data: Sequence[TrainingData], board: Any, nodes: Nodes, *, filesystem: Any, path: str
) -> Any:
    """Ray Train's trainer of the worker group."""
    gpus = {"GPU": 1} if config.use_gpu else {}
    progress = last_progress(filesystem, path)
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "board": board,
            "n_tiles": [part.n_tiles for part in data],
        },
        torch_config=OwnInterface(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": worker_cpus(config.workers, nodes.job_cpus())} | gpus,
            label_selector=nodes.selector(),
        ),
        run_config=ray.train.RunConfig(
            name=RUN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[Losses(board, int(progress["epochs_done"]) if progress else 0)],
        ),
        # called for every group of workers, so that each begins with the tiles that its checkpoint has not seen
        datasets={
            shard_name(number): partial(_dataset, part, number, config, filesystem, path)
            for number, part in enumerate(data)
        },
        dataset_config=_data_config(config, nodes),
    )


def _look(board: Any, journals: list[Any], listener: Listener, counts: TrainingMetrics) -> None:
    news, *unread = ray.get([board.take.remote(), *(journal.take.remote() for journal in journals)])
    for loss in news.losses:
        log.warning("%s", loss)
        metrics.count(metrics.RETRIES, cause="crashed")
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


def _data_config(config: TrainConfig, nodes: Nodes) -> Any:
    """Tiles come in order; the readers of a job keep within its share of the cluster."""
    if nodes.share == 1:
        return in_order(selector=nodes.selector())
    cpus = nodes.job_cpus() - config.workers * worker_cpus(config.workers, nodes.job_cpus())
    return in_order(selector=nodes.selector(), cpus=cpus)


def _watched(run: Callable[[], Any], look: Callable[[], None]) -> Any:
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
        raise WorkError(
            f"training failed: {_cause(outcome['error'])}; the same command with --resume goes on from the last epoch"
        ) from outcome["error"]
    return outcome["result"]


def _cause(error: Exception) -> str:
    """In a line, of a group's errors that of a worker that can say something."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    said = [sentence(failure) for _, failure in sorted(failures.items()) if not _is_gone(failure)]
    if failures and not said:
        return f"worker {min(failures)} was lost (its process or node died), after {MAX_RESTARTS} restarts"
    return said[0] if said else sentence(error)


def _node_cpus() -> float:
    """CPUs of this process's node."""
    here = ray.get_runtime_context().get_node_id()
    return max(float(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["NodeID"] == here)
