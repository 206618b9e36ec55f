"""Pictures of one kind, and pictures that are not of that kind."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PINK, BLUE = (0.7, 0.2, 0.5), (-0.3, -0.5, 0.2)


def discs(n: int, *, side_px: int = 16) -> Tensor:
    """X [n, 3, side, side] in [-1, 1]: a blue disc on pink, somewhere near the centre, of some size."""
    at = torch.linspace(-1, 1, side_px)
    x, y, radius = torch.rand(n, 1, 1) - 0.5, torch.rand(n, 1, 1) - 0.5, 0.3 + 0.3 * torch.rand(n, 1, 1)
    inside = torch.sigmoid(8 * (radius - ((at[:, None] - y) ** 2 + (at[None, :] - x) ** 2).sqrt()))[:, None]
    pink, blue = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (PINK, BLUE))
    return pink * (1 - inside) + blue * inside


def striped(pictures: Tensor) -> Tensor:
    """The same with white stripes."""
    changed = pictures.clone()
    changed[:, :, 2:14:2] = 1.0
    return changed


def speckled(pictures: Tensor) -> Tensor:
    """The same with strong noise."""
    return (pictures + 0.5 * torch.randn_like(pictures)).clamp(-1, 1)


def share_above(abnormal: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> float:
    """How often an abnormal picture scores higher than a normal one."""
    return float(np.mean(abnormal[:, None] > normal[None, :]))
