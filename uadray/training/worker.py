"""Training on Ray: the worker, which is a host of `uadray.training.loop`."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from uadray.detectors.trainee import Trainee, UnsuitableTilesError, alone
from uadray.networks.outline import Networks
from uadray.training.arithmetic import quick
from uadray.training.board import Tally
from uadray.training.captured import capture_steps
from uadray.training.checkpoint import load_checkpoint, load_progress, save_checkpoint
from uadray.training.collapse import CollapsedError
from uadray.training.config import TrainConfig
from uadray.training.group import any_of_group, average_over_group, take_over_first, threads_of, told_to_all
from uadray.training.joined import Joined
from uadray.training.loop import DivergedError, Line, Reached, Step, pictures_of, run_training
from uadray.training.parts import from_place
from uadray.training.passes import endless_passes
from uadray.training.places import Beginning, beginning
from uadray.training.ray_dataset import dealt_parts
from uadray.training.stream import TileStream
from uadray.training.subject import build_networks, build_trainee
from uadray.training.validation import is_due

TELL_S = 1.0
"""How often each worker tells what it has done: the driver counts it, since workers may live shortly."""


class RayWorker:
    """One worker of a group as host of the loop, see `uadray.training.loop.Host`. Rank 0 tells the board."""

    def __init__(
        self, config: TrainConfig, board: Any, streams: Sequence[TileStream], device: torch.device, *, validates: bool
    ) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self._config, self._board, self._streams, self._device = config, board, streams, device
        self._validates = validates
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
                ray.train.report(
                    line, checkpoint=ray.train.Checkpoint.from_directory(folder), validation=self._validation(reached)
                )
        self._since = time.perf_counter()

    def _validation(self, reached: Reached) -> Any:
        """What Ray Train shall do with a checkpoint besides; False for nothing."""
        if not (self._validates and is_due(self._config, len(reached.lines))):
            return False
        return ray.train.ValidationTaskConfig(fn_kwargs={"epoch": int(reached.lines[-1]["epoch"])})

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
            host = RayWorker(config, board, streams, device, validates=settings["validates"])
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
    rows = shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    parts = dealt_parts(rows, config.input_px, rank=rank, world=world, first_row=begun.first_row)
    place = begun.place(rank, world)
    return TileStream(
        from_place(parts, place), config, blocks_per_pass=passes.blocks_per_pass, device=device, place=place
    )


def _node_cpus() -> float:
    """CPUs of this process's node."""
    here = ray.get_runtime_context().get_node_id()
    return max(float(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["NodeID"] == here)
