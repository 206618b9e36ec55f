"""CutPaste: a piece of normal tissue, of slightly other colours, pasted elsewhere.

Li, Sohn, Yoon and Pfister 2021, https://arxiv.org/abs/2104.04015 . Half of the tiles get a patch,
half a scar, which is thin and turned. Untouched ones, its third class, are not made: labels are of pixels, and most
pixels of every tile are untouched.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.detectors.synthetic.patches import (
    Patches,
    Synthetic,
    between,
    foreign,
    other_tiles,
    weights,
    within_tile,
)

DRAWS = 12
"""Numbers that a tile takes: class, other tile, two of the size, angle, four places, three of the colours."""

AREAS, ASPECTS = (0.02, 0.15), (0.3, 1 / 0.3)
"""Of a patch over the tile's area, and of its height over its width; as often below 1 as above (paper)."""

SCAR_LENGTHS, SCAR_WIDTHS, SCAR_ANGLE = (10 / 256, 25 / 256), (2 / 256, 16 / 256), math.pi / 4
"""Of a scar over the tile's side (10 to 25 and 2 to 16 px of 256), and the most that it is turned (paper)."""

JITTER = 0.1
"""The most by which brightness, contrast and saturation of a patch change (paper)."""

GREYS = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey level (ITU-R BT.601), as of the jitter that the paper takes."""


def pasted(x: Float[Tensor, "n 3 h w"], draws: Float[Tensor, "n draws"], *, border_px: float = 0.0) -> Synthetic:
    """Every tile with a patch or a scar of another tile in it; the label is 1 there.

    Args:
        x: normal tiles in [-1, 1], two or more.
        draws: `DRAWS` columns from [0, 1).
        border_px: the patch fades in over so many pixels from its border; 0 as in the paper.

    Raises:
        ValueError: there is one tile alone.
    """
    height, width = x.shape[-2:]
    patches = patches_of(draws, height, width)
    pieces = foreign(jittered(x[other_tiles(draws[:, 1])], draws[:, 9:12]), patches)
    mask = weights(patches, height, width, border_px=border_px)
    return Synthetic(x + mask * (pieces - x), mask)


def patches_of(draws: Float[Tensor, "n draws"], height: int, width: int) -> Patches:
    """Of each tile the patch, by its class: an upright one below 1/2, a scar above."""
    kind, first, second = draws[:, 0], draws[:, 2], draws[:, 3]
    area = between(first, *AREAS) * height * width
    aspect = torch.where(second < 0.5, between(2 * second, ASPECTS[0], 1.0), between(2 * second - 1, 1.0, ASPECTS[1]))
    is_scar = kind >= 0.5
    tall = torch.where(is_scar, between(first, *SCAR_LENGTHS) * height, (area * aspect).sqrt())
    wide = torch.where(is_scar, between(second, *SCAR_WIDTHS) * height, (area / aspect).sqrt())
    tall, wide = tall.round().clamp(1, height), wide.round().clamp(1, width)
    places = [
        within_tile(draws[:, 5 + i], length, side)
        for i, (length, side) in enumerate(((tall, height), (wide, width)) * 2)
    ]
    return Patches(
        height=tall, width=wide, centre_y=places[0], centre_x=places[1],
        source_y=places[2], source_x=places[3],
        angle=torch.where(is_scar, between(draws[:, 4], -SCAR_ANGLE, SCAR_ANGLE), 0.0),
    )  # fmt: skip


def jittered(x: Float[Tensor, "n 3 h w"], draws: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 h w"]:
    """Tiles in [-1, 1] of other brightness, contrast (about the mean grey) and saturation, in this order."""
    brightness, contrast, saturation = between(draws, 1 - JITTER, 1 + JITTER).T[:, :, None, None, None]
    light = ((x + 1) / 2 * brightness).clamp(0, 1)
    mean = grey(light).mean((2, 3), keepdim=True)
    light = (mean + contrast * (light - mean)).clamp(0, 1)
    own = grey(light)
    saturated: Tensor = (own + saturation * (light - own)).clamp(0, 1)
    return 2 * saturated - 1


def grey(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """The weighted mean of red, green and blue."""
    red, green, blue = x.split(1, 1)
    level: Tensor = GREYS[0] * red + GREYS[1] * green + GREYS[2] * blue
    return level
