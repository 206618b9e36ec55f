"""Backbones of torchvision with random weights, and random images, for the tests of `networks`."""

from typing import Any

import torch
import torchvision
from torch import Tensor


def images(n: int = 2, size_px: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def torchvision_net(name: str) -> Any:
    torch.manual_seed(1)
    return getattr(torchvision.models, name)(weights=None).eval()


def trunk_state(name: str) -> dict[str, Tensor]:
    """Random weights under torchvision's names."""
    return dict(torchvision_net(name).state_dict())
