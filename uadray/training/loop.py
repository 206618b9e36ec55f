"""Training on Ray: the worker (config, state, restore, loop) and `fit`, which runs a group of them."""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor, nn

from uadray.data.cluster import cores
from uadray.data.crops import crop_pixels
from uadray.errors import WorkError
from uadray.models.build import Networks, build_networks
from uadray.models.pixels import Pixels, to_pixels
from uadray.monitoring import metrics
from uadray.training.checkpoint import load_networks, load_state, save_state
from uadray.training.config import PREPARE_TILES, TrainConfig
from uadray.training.steps import Trainee, alone, build_trainee

SAMPLES = 16
"""Tiles that are reconstructed for people to look at, the same ones at every epoch."""

Line = dict[str, Any]
Sample = tuple[int, Pixels, Pixels]
"""Epoch, tiles [N, h, w, 3], their reconstructions."""

Listener = Callable[[list[Line], list[Sample]], None]


@ray.remote(num_cpus=0)
class Board:
    """Where rank 0 posts what the driver shows: metrics a line, sample pictures. Lives as long as the driver."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._samples: list[Sample] = []

    def post(self, line: Line, sample: tuple[Pixels, Pixels] | None = None) -> None:
        """Add a line of metrics and, at an epoch's end, tiles and their reconstructions."""
        self._lines.append(line)
        if sample is not None:
            self._samples.append((int(line["epoch"]), *sample))

    def take(self) -> tuple[list[Line], list[Sample]]:
        """What came since the last call."""
        lines, samples = self._lines, self._samples
        self._lines, self._samples = [], []
        return lines, samples


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs; `settings` holds the configuration as a dict, and the board."""
    config = TrainConfig.model_validate(settings["config"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.threads or max(1, settings["node_cores"] // world))
    torch.manual_seed(config.seed)
    device = ray.train.torch.get_device() if config.use_gpu else torch.device("cpu")
    networks = build_networks(config.detector)
    for network in networks.values():
        network.to(device).to(memory_format=torch.channels_last)
    trainee = build_trainee(config.detector, networks, average=_average if world > 1 else alone)
    shard = ray.train.get_dataset_shard("train")
    stream = batches(shard, config, device, seed=config.seed * 1000 + rank)
    first_epoch = _start(trainee, networks, stream, world)
    torch.manual_seed(config.seed + 1 + rank + 1000 * first_epoch)  # latents and penalties differ by worker
    samples = next(stream)[:SAMPLES]
    for epoch in range(first_epoch, config.epochs):
        line = _epoch(config, trainee, stream, epoch, settings["board"] if rank == 0 else None)
        _report(config, trainee, epoch, line, samples, settings["board"], rank=rank)


class Collate(ArrowBatchCollateFn):  # type: ignore[misc]  # Ray is untyped
    """Rows of crops -> X [N, 3, side, side] in [-1, 1], channels last, in the threads that fetch ahead."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __call__(self, table: pa.Table) -> Tensor:
        """Called by Ray, in several threads."""
        pixels = torch.from_numpy(crop_pixels(table, self._side))
        return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def batches(shard: Any, config: TrainConfig, device: torch.device, *, seed: int) -> Iterator[Tensor]:
    """X [batch, 3, input, input] in [-1, 1] without end.

    The dataset streams all passes of the training in one execution, so that the next pass is read while this one is
    used. Only where it was too short (tiles that could not be read, or had too little tissue) it is begun again.
    """
    for turn in itertools.count():
        rows = 0
        for x in shard.iter_torch_batches(
            batch_size=config.batch_size,
            collate_fn=Collate(config.detector.input_px),
            device=str(device),
            drop_last=True,
            prefetch_batches=4,
            local_shuffle_buffer_size=config.shuffle_tiles,
            local_shuffle_seed=seed + turn,
        ):
            rows += len(x)
            yield x
        if not rows:
            raise RuntimeError(
                f"a worker's share holds fewer tiles than one batch of {config.batch_size}; lower batch_size"
            )


def _start(trainee: Trainee, networks: Networks, stream: Iterator[Tensor], world: int) -> int:
    """Restore the last checkpoint, or prepare; every worker begins with rank 0's networks. Returns the epoch."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            return int(load_state(Path(folder), networks, trainee.optimizers)["epochs_done"])
    seen: list[Tensor] = []
    while sum(len(x) for x in seen) < PREPARE_TILES:
        seen.append(next(stream))
    trainee.prepare(torch.cat(seen))
    if world > 1:
        for network in networks.values():
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)
    return 0


def _epoch(config: TrainConfig, trainee: Trainee, stream: Iterator[Tensor], epoch: int, board: Any) -> Line:
    """Run one epoch; returns the means of its losses and its pace."""
    for network in trainee.networks.values():
        network.train()
    sums: dict[str, list[float]] = {}
    start, waited = time.perf_counter(), 0.0
    total = config.epochs * config.steps_per_epoch
    with metrics.stage("train_step") as meter:
        for step in range(config.steps_per_epoch):
            asked = time.perf_counter()
            x = next(stream)
            waited += time.perf_counter() - asked
            done = epoch * config.steps_per_epoch + step
            for name, value in trainee.step(x, done / total).items():
                sums.setdefault(name, []).append(value)
            meter.add(tiles=len(x))
            if board is not None:
                board.post.remote({"epoch": epoch, "step": done + 1})
    seconds = time.perf_counter() - start
    means = {name: float(np.mean(values)) for name, values in sums.items()}
    bad = [name for name, value in means.items() if not np.isfinite(value)]
    if bad:
        raise RuntimeError(f"training diverged in epoch {epoch}: {', '.join(bad)} not finite; lower the learning rate")
    pace = {"seconds": seconds, "tiles_per_second": config.steps_per_epoch * config.batch_size / seconds}
    return {"epoch": epoch, "step": (epoch + 1) * config.steps_per_epoch, "waiting": waited / seconds} | pace | means


def _report(
    config: TrainConfig, trainee: Trainee, epoch: int, line: Line, samples: Tensor, board: Any, *, rank: int
) -> None:
    """Checkpoint and sample picture from rank 0; every worker reports."""
    if rank:
        ray.train.report(line)
        return
    ray.get(board.post.remote(line | {"end_of_epoch": True}, reconstructed(trainee, samples)))
    with tempfile.TemporaryDirectory() as folder:
        progress = {"epochs_done": epoch + 1, "epochs": config.epochs}
        save_state(Path(folder), trainee.networks, trainee.optimizers, progress)
        ray.train.report(line, checkpoint=ray.train.Checkpoint.from_directory(folder))


@torch.no_grad()
def reconstructed(trainee: Trainee, x: Tensor) -> tuple[Pixels, Pixels]:
    """Tiles x [N, 3, h, w] and their reconstructions as bytes, networks in the mode in which they score."""
    for network in trainee.networks.values():
        network.eval()
    return to_pixels(x), to_pixels(trainee.reconstruct(x))


def _average(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of the gradients over all workers, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def fit(config: TrainConfig, dataset: Any, *, filesystem: Any, path: str, listener: Listener) -> tuple[Networks, Line]:
    """Run the worker group to the end, going on from the last checkpoint under `path` if there is one.

    Args:
        config: the run.
        dataset: rows `{"pixels": bytes}`.
        filesystem: pyarrow filesystem of `path`.
        path: folder for Ray Train's checkpoints.
        listener: told about once a second of the metrics and samples that came.

    Returns:
        The trained networks on the CPU, and the last epoch's metrics.

    Raises:
        WorkError: the workers failed for good.
    """
    board = Board.remote()  # type: ignore[attr-defined]
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump(mode="json"), "board": board, "node_cores": _node_cores()},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": worker_cpus(config.workers, cores())} | ({"GPU": 1} if config.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        datasets={"train": dataset},
    )
    result = _watched(trainer.fit, lambda: listener(*ray.get(board.take.remote())))
    if result.checkpoint is None:
        raise WorkError(f"{path}: the training ended without a checkpoint")
    networks = build_networks(config.detector, pretrained=False)
    with result.checkpoint.as_directory() as folder:
        load_networks(Path(folder) / "networks.safetensors", networks)
    return networks, result.metrics or {}


def worker_cpus(workers: int, n_cpus: int) -> float:
    """CPUs that each worker asks Ray for: one, or less where the readers would be left without any and wait for ever.

    >>> worker_cpus(1, 2), worker_cpus(2, 2), worker_cpus(4, 16)
    (1.0, 0.5, 1.0)
    """
    return min(1.0, (n_cpus - 1) / workers)


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
        cause = str(outcome["error"]).strip().splitlines()
        raise WorkError(f"training failed: {cause[-1] if cause else repr(outcome['error'])}") from outcome["error"]
    return outcome["result"]


def _node_cores() -> int:
    """CPUs of the smallest node: what the torch threads of one node's workers share."""
    return min(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
