"""Tiles with nuclei of a known size."""

import numpy as np
import torch
from torch import Tensor


def spots(n: int, side_px: int, *, mpp: float, diameter_um: float = 7.0, spacing_um: float = 10.0) -> Tensor:
    """[n, 3, side, side] Pink tiles with round dark nuclei on a square lattice."""
    y, x = np.mgrid[:side_px, :side_px] * mpp
    offsets = np.random.default_rng(0).uniform(0, spacing_um, (n, 2))
    tiles = []
    for dy, dx in offsets:
        dy_um, dx_um = ((axis + d) % spacing_um - spacing_um / 2 for axis, d in ((y, dy), (x, dx)))
        inside = (np.hypot(dy_um, dx_um) < diameter_um / 2)[..., None]
        tiles.append(np.where(inside, (90, 50, 140), (230, 170, 210)))
    return torch.tensor(np.stack(tiles), dtype=torch.float32).permute(0, 3, 1, 2) / 127.5 - 1
