"""Patches of other tiles: of which tile, of what size, from where, to where.

Everything is a function of tiles and of numbers drawn evenly from [0, 1), one row a tile, so that the same draws make
the same anomaly. All tiles of a batch are worked on at once, and a GPU is not waited for.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Synthetic:
    """Tiles with anomalies in them.

    Attributes:
        x: [N, 3, h, w] in [-1, 1].
        label: [N, 1, h, w], how foreign each pixel is, 0 to 1.
    """

    x: Tensor
    label: Tensor


@dataclass(frozen=True)
class Patches:
    """One rectangle a tile, in pixels [N]; its pixels are those whose centres lie within.

    Attributes:
        height: where it is put; 0: there is none.
        width: likewise.
        centre_y: of where it is put; an upright one of height h from row t has t + (h - 1) / 2.
        centre_x: likewise.
        source_y: of where it is taken from.
        source_x: likewise.
        angle: by which it is turned about its centre, radians; None: all are upright.
        scale: it is magnified so much; None: none is.
    """

    height: Float[Tensor, " n"]
    width: Float[Tensor, " n"]
    centre_y: Float[Tensor, " n"]
    centre_x: Float[Tensor, " n"]
    source_y: Float[Tensor, " n"]
    source_x: Float[Tensor, " n"]
    angle: Float[Tensor, " n"] | None = None
    scale: Float[Tensor, " n"] | None = None


def between(draw: Float[Tensor, "..."], least: float, most: float) -> Float[Tensor, "..."]:
    """Draws from [0, 1) as draws from [least, most)."""
    return least + (most - least) * draw


def whole_between(
    draw: Float[Tensor, " n"], least: Float[Tensor, " n"] | float, most: Float[Tensor, " n"] | float
) -> Float[Tensor, " n"]:
    """Draws from [0, 1) as whole numbers from `least` to `most`, both whole and both among them."""
    drawn: Tensor = least + (draw * (most - least + 1)).floor()
    return drawn.minimum(torch.as_tensor(most, dtype=draw.dtype, device=draw.device))


def other_tiles(draw: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """For each of n tiles the number of another one, never its own.

    Raises:
        ValueError: there is one tile alone.
    """
    n = len(draw)
    if n < 2:
        raise ValueError("a patch comes from another tile of the batch, and this batch has one")
    own = torch.arange(n, device=draw.device)
    return (own + 1 + (draw * (n - 1)).long().clamp_max(n - 2)) % n


def offsets(patches: Patches, height: int, width: int) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Of every pixel of a tile where it lies from the patch's centre, along the patch's height and along its width."""
    like = patches.height
    y = torch.arange(height, device=like.device, dtype=like.dtype)[:, None] - patches.centre_y[:, None, None]
    x = torch.arange(width, device=like.device, dtype=like.dtype) - patches.centre_x[:, None, None]
    if patches.angle is None:
        return y.expand(-1, -1, width), x.expand(-1, height, -1)
    cosine, sine = patches.angle.cos()[:, None, None], patches.angle.sin()[:, None, None]
    return cosine * y + sine * x, cosine * x - sine * y


def weights(patches: Patches, height: int, width: int, *, border_px: float = 0.0) -> Float[Tensor, "n 1 h w"]:
    """1 within the patch, 0 outside, and a ramp over so many pixels along its border inside."""
    along_y, along_x = offsets(patches, height, width)
    depth = torch.minimum(
        patches.height[:, None, None] / 2 - along_y.abs(), patches.width[:, None, None] / 2 - along_x.abs()
    )
    if border_px == 0:
        return (depth > 0)[:, None].to(depth.dtype)
    ramp: Tensor = (depth + 0.5) / (border_px + 1)
    return torch.where(depth > 0, ramp.clamp(0, 1), 0.0)[:, None]


def foreign(x: Float[Tensor, "n c h w"], patches: Patches) -> Float[Tensor, "n c h w"]:
    """Tiles, each moved, turned and magnified so that what a patch is taken from lies where it is put.

    Beyond a tile's edge its pixels are mirrored. Between pixels colours are linear.
    """
    height, width = x.shape[-2:]
    along_y, along_x = offsets(patches, height, width)
    if patches.scale is not None:
        along_y, along_x = along_y / patches.scale[:, None, None], along_x / patches.scale[:, None, None]
    rows = patches.source_y[:, None, None] + along_y
    columns = patches.source_x[:, None, None] + along_x
    grid = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def within_tile(
    draw: Float[Tensor, " n"], length: Float[Tensor, " n"], side: int, *, margin: int = 0
) -> Float[Tensor, " n"]:
    """The centre of an upright patch of a whole length, anywhere where it lies `margin` px within the tile's edges."""
    first = whole_between(draw, float(margin), (side - margin - length).clamp_min(margin))
    return first + (length - 1) / 2


def normal_of(draw: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Draws from [0, 1) as draws of a standard normal."""
    return math.sqrt(2) * torch.erfinv((2 * draw - 1).clamp(-0.9999, 0.9999))
