"""Natural synthetic anomalies (NSA): resized patches of another tile, blended in without a seam.

Schlüter, Tan, Hou and Kainz 2022, https://arxiv.org/abs/2109.15222 . Numbers are those of the
authors' implementation for textures.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.synthetic.patches import (
    Patches,
    Synthetic,
    foreign,
    normal_of,
    other_tiles,
    weights,
    within_tile,
)
from uadray.detectors.synthetic.poisson import cloned

PATCHES = 4
"""At the most; each after the first is there with a probability of 1/2."""

DRAWS_A_PATCH = 10
DRAWS = 1 + PATCHES * DRAWS_A_PATCH
"""Numbers that a tile takes: which other tile, and of each patch whether it is there, four of the size, one of the
magnification, four places."""

GAMMA_SCALE, LEAST_HALF, MOST_HALF = 0.05, 0.03, 0.4
"""Half of a patch's side over the tile's is `LEAST_HALF` and a Gamma(2, `GAMMA_SCALE`), at most `MOST_HALF`."""

MAGNIFICATION_SPREAD, MAGNIFICATIONS, MOST_RESIZED = 0.5, (0.5, 2.0), 0.4
"""A patch is resized by a normal about 1, within limits; so is the side of a resized one, over the tile's."""

LEAST_PX = 3
"""Side of a patch: a smaller one has hardly gradients of its own (the authors refuse less than 50 pixels)."""

TOLERANCE, STEEPNESS, MIDDLE = 1.0, 1 / 3, 7.0
"""In grey levels: what differs by less is as it was; the logistic's slope and middle (of four of five textures)."""

MEDIAN_PX = 3
"""Side of the square of which labels take the median; the authors' disc of 11 px at 224 px, in tiles of 64 px."""


def blended(x: Float[Tensor, "n 3 h w"], draws: Float[Tensor, "n draws"], *, mixed: bool = False) -> Synthetic:
    """Every tile with one to four patches of another tile in it; the label says how much colours have changed there.

    Args:
        x: normal tiles in [-1, 1], two or more.
        draws: `DRAWS` columns from [0, 1).
        mixed: keep the tile's gradients where these are the stronger ones.

    Raises:
        ValueError: there is one tile alone.
    """
    height, width = x.shape[-2:]
    source, made = x[other_tiles(draws[:, 0])], x
    changed = torch.zeros_like(x[:, :1])
    for number, part in enumerate(draws[:, 1:].split(DRAWS_A_PATCH, 1)):
        patches = patches_of(part, height, width, is_there=(part[:, 0] < 0.5) | (number == 0))
        made = cloned(made, foreign(source, patches), patches, mixed=mixed).clamp(-1, 1)
        changed = changed.maximum(weights(patches, height, width))
    return Synthetic(made, changed * change_label(x, made))


def patches_of(draws: Float[Tensor, "n 10"], height: int, width: int, *, is_there: Bool[Tensor, " n"]) -> Patches:
    """Of each tile a patch, a pixel or more from its edges."""
    sizes = [
        ((LEAST_HALF + gamma_of(draws[:, i], draws[:, i + 1])) * side).clamp_max(MOST_HALF * side).floor() * 2
        for i, side in ((1, height), (3, width))
    ]
    scale = (1 + MAGNIFICATION_SPREAD * normal_of(draws[:, 5])).clamp(*MAGNIFICATIONS)
    scale = scale.minimum(MOST_RESIZED * height / sizes[0]).minimum(MOST_RESIZED * width / sizes[1])
    tall, wide = (
        (scale * size).round().clamp(LEAST_PX, side - 2) for size, side in zip(sizes, (height, width), strict=True)
    )
    return Patches(
        height=torch.where(is_there, tall, 0.0), width=wide,
        centre_y=within_tile(draws[:, 6], tall, height, margin=1),
        centre_x=within_tile(draws[:, 7], wide, width, margin=1),
        source_y=within_tile(draws[:, 8], (tall / scale).round().clamp(1, height), height),
        source_x=within_tile(draws[:, 9], (wide / scale).round().clamp(1, width), width),
        scale=scale,
    )  # fmt: skip


def gamma_of(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Two draws from [0, 1) as one of Gamma(2, `GAMMA_SCALE`): a sum of two exponentials."""
    return -GAMMA_SCALE * (torch.log1p(-first) + torch.log1p(-second))


def change_label(x: Float[Tensor, "n 3 h w"], made: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """The logistic of how many grey levels colours have changed, in the median about a pixel; 0 where they have not."""
    levels = 127.5 * (made - x).abs().mean(1, keepdim=True)
    is_changed = median((levels > TOLERANCE).to(levels.dtype))
    return is_changed * torch.sigmoid(STEEPNESS * (median(levels * is_changed) - MIDDLE))


def median(values: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Of the square of `MEDIAN_PX` about each pixel; beyond the edges values are mirrored."""
    n, _, height, width = values.shape
    around = F.unfold(F.pad(values, (MEDIAN_PX // 2,) * 4, mode="reflect"), MEDIAN_PX)
    return around.median(1).values.view(n, 1, height, width)
