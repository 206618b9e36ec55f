"""Crops of tiles that lie on a device as bytes: cut, turned and stained there, many at once."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from uadray.tiles.stain_augment import density_and_shift, draw_mixings


def cut(tiles: UInt8[Tensor, "n h w 3"], drawn: Int64[Tensor, "4 b"], *, side: int) -> UInt8[Tensor, "b side side 3"]:
    """Crops of tiles, each turned and mirrored in one of the eight ways that a square has.

    Args:
        tiles: to cut from.
        drawn: number of the tile, y and x of the crop's corner, and which of the eight ways.
        side: of a crop.
    """
    number, y, x, way = (row[:, None, None] for row in drawn)
    along = torch.arange(side, device=tiles.device)
    down, right = along[None, :, None], along[None, None, :]
    row, column = torch.where(way >= 4, right, down), torch.where(way >= 4, down, right)
    row = torch.where(way % 2 == 1, side - 1 - row, row)
    column = torch.where(way // 2 % 2 == 1, side - 1 - column, column)
    return tiles[number, y + row, x + column]


def restained(
    crops: UInt8[Tensor, "b h w 3"], rng: np.random.Generator, *, sigma: float
) -> UInt8[Tensor, "b h w 3"]:  # fmt: skip
    """`uadray.tiles.stain_augment.augment` on a device; equal to it but for the rounding of a level."""
    mixings = torch.from_numpy(draw_mixings(len(crops), rng, sigma_alpha=sigma, sigma_beta=sigma)).to(crops.device)
    table = torch.from_numpy(density_and_shift()[0]).to(crops.device)
    density = table[:, 0][crops.int()]
    shift = table[:, 3][crops[..., 1:2].int()]
    terms = torch.cat([density, shift, torch.ones_like(shift)], -1).flatten(1, 2)  # [B, H W, 5]
    log_light = (terms[:, :, None] * mixings[:, None]).sum(-1)  # no matrix product: it may be rounded to TF32
    return log_light.clamp(0, 6).exp().sub(1).round().clamp(0, 255).to(torch.uint8).view(crops.shape)
