"""Foreign patch interpolation: part of a tile becomes a mixture with the same part of another.

Tan, Hou, Batten, Qiu and Kainz 2020, https://arxiv.org/abs/2011.04197 . Patches are square and cut off at the
tile's edges, and all numbers are drawn evenly.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.detectors.synthetic.patches import (
    Patches,
    Synthetic,
    between,
    other_tiles,
    weights,
    whole_between,
)

DRAWS = 5
"""Numbers that a tile takes: which other tile, row, column, half the width, the share."""

SHARES = (0.05, 0.95)
"""Of the other tile within the patch, alpha (authors' implementation)."""

HALF_WIDTHS = (0.05, 0.2)
"""Of a patch, over the tile's side (authors' implementation)."""

CORE = 0.8
"""Centres of patches lie in so much of the tile's side, about its middle (authors' implementation)."""


def interpolated(x: Float[Tensor, "n 3 h w"], draws: Float[Tensor, "n draws"], *, border_px: float = 0.0) -> Synthetic:
    """Every tile with a patch (1 - alpha) x + alpha x' in it, x' another tile of the batch; the label is alpha.

    Args:
        x: normal tiles in [-1, 1], two or more.
        draws: `DRAWS` columns from [0, 1).
        border_px: alpha rises from the patch's border over so many pixels; 0 as in the paper.

    Raises:
        ValueError: there is one tile alone.
    """
    height, width = x.shape[-2:]
    other, share = other_tiles(draws[:, 0]), between(draws[:, 4], *SHARES)
    half = whole_between(draws[:, 3], float(round(HALF_WIDTHS[0] * height)), float(round(HALF_WIDTHS[1] * height) - 1))
    half = half.clamp_min(1)
    edge = (1 - CORE) / 2
    y, x_px = (
        whole_between(draw, float(int(edge * side)), float(int((1 - edge) * side) - 1)) - 0.5
        for draw, side in ((draws[:, 1], height), (draws[:, 2], width))
    )
    patches = Patches(height=2 * half, width=2 * half, centre_y=y, centre_x=x_px, source_y=y, source_x=x_px)
    alpha = weights(patches, height, width, border_px=border_px) * share[:, None, None, None]
    difference = x[other] - x
    return Synthetic(x + alpha * difference, torch.where((difference != 0).any(1, keepdim=True), alpha, 0.0))
