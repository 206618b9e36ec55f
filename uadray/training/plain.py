"""What a worker does from one checkpoint to the next, in plain torch: prepare, epochs, agreement within the group.

Random numbers follow from seed, worker and epoch, so that a training that goes on from a checkpoint draws the latents
that it would have drawn.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from uadray.detectors.pixels import Pixels, to_pixels
from uadray.detectors.trainee import Trainee
from uadray.errors import WorkError
from uadray.training.config import PREPARE_TILES, TrainConfig

SAMPLES = 16
"""Tiles that are reconstructed for people to look at, the same ones at every epoch."""

Line = dict[str, Any]


class DivergedError(WorkError):
    """A loss is no number any more: trying again from a checkpoint would end in the same place."""


def prepare(trainee: Trainee, stream: Iterator[Tensor]) -> Tensor:
    """Show the trainee `PREPARE_TILES` tiles; returns the first of them, [SAMPLES, 3, h, w], for people to look at."""
    seen: list[Tensor] = []
    while sum(len(x) for x in seen) < PREPARE_TILES:
        seen.append(next(stream))
    tiles = torch.cat(seen)
    trainee.prepare(tiles)
    return tiles[:SAMPLES].clone()


def run_epoch(
    config: TrainConfig, trainee: Trainee, stream: Iterator[Tensor], epoch: int, *, rank: int = 0,
    any_of: Callable[[bool], bool] = bool, each: Callable[[int, int], None] | None = None,
) -> Line:  # fmt: skip
    """Run one epoch.

    Args:
        config: the run.
        trainee: what learns.
        stream: of batches.
        epoch: its number, from 0.
        rank: of this worker.
        any_of: tells every worker of a group whether any of them says yes.
        each: called after every step with the tiles of its batch and the number of steps done.

    Returns:
        The means of its losses, and its pace.

    Raises:
        DivergedError: in all workers at the same step.
    """
    torch.manual_seed(int(np.random.SeedSequence([config.seed, rank, epoch]).generate_state(1)[0]))
    for network in trainee.networks.values():
        network.train()
    sums: dict[str, list[float]] = {}
    start, waited = time.perf_counter(), 0.0
    total = config.epochs * config.steps_per_epoch
    for done in range(epoch * config.steps_per_epoch, (epoch + 1) * config.steps_per_epoch):
        asked = time.perf_counter()
        x = next(stream)
        waited += time.perf_counter() - asked
        values = trainee.step(x, done / total)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if any_of(bool(bad)):
            raise DivergedError(
                f"training diverged at step {done + 1} of {total} (epoch {epoch}): "
                f"{', '.join(bad) or 'a loss of another worker'} is not finite; "
                f"{_lower(config, trainee.learning_rate(done / total))}train into another --out"
            )
        for name, value in values.items():
            sums.setdefault(name, []).append(value)
        if each is not None:
            each(len(x), done + 1)
    seconds = time.perf_counter() - start
    means = {name: float(np.mean(found)) for name, found in sums.items()}
    pace = {"seconds": seconds, "tiles_per_second": config.steps_per_epoch * config.batch_size / seconds}
    return {"epoch": epoch, "step": (epoch + 1) * config.steps_per_epoch, "waiting": waited / seconds} | pace | means


def _lower(config: TrainConfig, name: str) -> str:
    return f"lower detector.{name} (now {getattr(config.detector, name):g}), and " if name else ""


@torch.no_grad()
def reconstructed(trainee: Trainee, x: Tensor) -> tuple[Pixels, Pixels | None]:
    """Tiles x [N, 3, h, w] and their reconstructions as bytes, networks in the mode in which they score."""
    for network in trainee.networks.values():
        network.eval()
    x_hat = trainee.reconstruct(x)
    return to_pixels(x), None if x_hat is None else to_pixels(x_hat)


def average_over_group(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over all workers, in one message."""
    parts = list(tensors)
    flat = torch.cat([t.flatten() for t in parts])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, mean in zip(parts, torch.split(flat, [t.numel() for t in parts]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def any_of_group(flag: bool, device: torch.device) -> bool:
    """Whether any worker says yes; all hear the same."""
    flags = torch.tensor([float(flag)], device=device)
    dist.all_reduce(flags)
    return bool(flags.item())


def threads_of(asked: int | None, node_cpus: float, workers_on_node: int) -> int:
    """Torch threads of a worker: those asked for, or its share of its own node's CPUs.

    >>> threads_of(None, 16, 2), threads_of(None, 2, 4), threads_of(3, 16, 2)
    (8, 1, 3)
    """
    return asked or max(1, int(node_cpus) // workers_on_node)
