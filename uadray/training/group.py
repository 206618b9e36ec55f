"""Agreement within a group of workers, by torch.distributed."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from uadray.networks.outline import Networks


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


def told_to_all(numbers: list[int], device: torch.device) -> list[list[int]]:
    """What every worker says, by rank: as many numbers each."""
    said = [torch.zeros(len(numbers), dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(said, torch.tensor(numbers, device=device))
    return [each.tolist() for each in said]


def take_over_first(networks: Networks) -> None:
    """Give every worker the networks of the first."""
    for network in networks.values():
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)


def threads_of(asked: int | None, node_cpus: float, workers_on_node: int) -> int:
    """Torch threads of a worker: those asked for, or its share of its own node's CPUs.

    >>> threads_of(None, 16, 2), threads_of(None, 2, 4), threads_of(3, 16, 2)
    (8, 1, 3)
    """
    return asked or max(1, int(node_cpus) // workers_on_node)
