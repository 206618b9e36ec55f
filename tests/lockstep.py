"""Several workers of a training, as threads that average as a group does, and a training that goes on from a file."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import torch
from torch import Tensor

from uadray.detectors.building import DetectorConfig, build_networks, build_trainee
from uadray.detectors.trainee import Average, Trainee
from uadray.networks.outline import Networks
from uadray.training.checkpoint import load_state, save_state


def trained(config: DetectorConfig, batches: Sequence[Tensor], *, average: Average = lambda _: None) -> Networks:
    """The networks after one step a batch; the first batch is also looked at before."""
    trainee = build_trainee(config, build_networks(config), average=average)
    trainee.prepare(batches[0])
    _steps(trainee, batches, range(len(batches)))
    trainee.finish()
    return trainee.networks


def trained_with_a_break(config: DetectorConfig, batches: Sequence[Tensor], *, at: int) -> Networks:
    """The same, but a new trainee goes on before step `at`, from what the first has left in files."""
    first = build_trainee(config, build_networks(config))
    first.prepare(batches[0])
    _steps(first, batches, range(at))
    second = build_trainee(config, build_networks(config))
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder), first.networks, first.optimizers, {"counts": first.counts})
        second.counts.update(load_state(Path(folder), second.networks, second.optimizers)["counts"])
    _steps(second, batches, range(at, len(batches)))
    second.finish()
    return second.networks


def _steps(trainee: Trainee, batches: Sequence[Tensor], numbers: range) -> None:
    for number in numbers:
        torch.manual_seed(number)
        trainee.step(batches[number], number / len(batches))


def trained_together(config: DetectorConfig, batches_of: Sequence[Sequence[Tensor]]) -> list[Networks]:
    """The networks of workers that average over each other, each with its own batches."""
    means = means_over(len(batches_of))
    with ThreadPoolExecutor(len(batches_of)) as workers:
        futures = [workers.submit(trained, config, b, average=means(i)) for i, b in enumerate(batches_of)]
        return [future.result() for future in futures]


def means_over(workers: int) -> Callable[[int], Average]:
    """By rank, the `average` of each of so many workers, which call it in threads."""
    barrier, given = Barrier(workers, timeout=60), list[list[Tensor]]([[] for _ in range(workers)])

    def of_worker(rank: int) -> Average:
        def average(tensors: Iterable[Tensor]) -> None:
            own = list(tensors)
            given[rank] = [t.clone() for t in own]
            barrier.wait()
            means = [torch.stack(parts).mean(0) for parts in zip(*given, strict=True)]
            barrier.wait()
            for tensor, mean in zip(own, means, strict=True):
                tensor.copy_(mean)

        return average

    return of_worker
