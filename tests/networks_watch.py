"""Which networks a step has moved."""

import torch
from torch import Tensor, nn

State = dict[str, dict[str, Tensor]]


def state_of(networks: dict[str, nn.Module]) -> State:
    """A copy of every weight and running statistic."""
    return {name: {key: t.clone() for key, t in n.state_dict().items()} for name, n in networks.items()}


def moved(networks: dict[str, nn.Module], before: State) -> set[str]:
    """Names of the networks that are no longer as they were."""
    return {
        name
        for name, network in networks.items()
        if any(not torch.equal(t, before[name][key]) for key, t in network.state_dict().items())
    }


def smooth_pictures(n: int = 8, side_px: int = 16) -> Tensor:
    """X [n, 3, side, side] in [-1, 1], each a smooth field of colours."""
    coarse = torch.rand(n, 3, 4, 4) * 2 - 1
    return nn.functional.interpolate(coarse, size=side_px, mode="bilinear").clamp(-1, 1)
