"""Seamless cloning: a patch with the colours of its surroundings at its border, and its own gradients within.

Pérez, Gangnet and Blake 2003, "Poisson image editing", https://doi.org/10.1145/882262.882269 (eq. 7 for pixels). The
patch f solves, for each of its pixels p with four neighbours q,

    sum_q (f_p - f_q) = sum_q v_pq,  f = x outside the patch,

v the guidance. What is added to x, u = f - x, has the same Laplacian less that of x, and is 0 outside. In a rectangle
sines diagonalise that Laplacian (the discrete sine transform), so that u is exact after four products of matrices,
whatever the sizes of the rectangles in a batch: there are no iterations, and nothing to converge.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.synthetic.patches import Patches, weights


def cloned(
    x: Float[Tensor, "n c h w"], pieces: Float[Tensor, "n c h w"], patches: Patches, *, mixed: bool
) -> Float[Tensor, "n c h w"]:
    """Tiles x, in each of which the patch has the gradients of `pieces`.

    Args:
        x: tiles.
        pieces: what is cloned, where it is put.
        patches: upright, one pixel or more from the tile's edges; none where its height is 0.
        mixed: of both images the stronger gradient between two pixels is taken (section 4, eq. 12).

    Returns:
        The tiles, unclipped: outside the patch x, to the last bit.
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = weights(patches, *x.shape[-2:])
        right_side = mask * guidance(x, pieces, mixed=mixed)
        return x + mask * solved(right_side, patches)


def guidance(x: Float[Tensor, "n c h w"], pieces: Float[Tensor, "n c h w"], *, mixed: bool) -> Float[Tensor, "n c h w"]:
    """sum_q (v_pq - (x_p - x_q)) of each pixel with four neighbours; 0 at the tile's edges, which are in no patch."""
    total = torch.zeros_like(x[..., 1:-1, 1:-1])
    for dim in (2, 3):
        own, theirs = x.diff(dim=dim), pieces.diff(dim=dim)  # of every pixel and the one before
        more = theirs - own
        if mixed:
            more = torch.where(own.abs() > theirs.abs(), 0.0, more)
        across = more.narrow(5 - dim, 1, x.shape[5 - dim] - 2)
        total = total - across.diff(dim=dim)
    return F.pad(total, (1, 1, 1, 1))


def solved(right_side: Float[Tensor, "n c h w"], patches: Patches) -> Float[Tensor, "n c h w"]:
    """The u with sum_q (u_p - u_q) = right_side_p within the patches, and u = 0 outside."""
    height, width = right_side.shape[-2:]
    down, values_down = sines(patches.centre_y, patches.height, height)
    right, values_right = sines(patches.centre_x, patches.width, width)
    waves = torch.einsum("nyk,ncyx,nxl->nckl", down, right_side, right)
    waves = waves / (values_down[:, None, :, None] + values_right[:, None, None, :])
    return torch.einsum("nyk,nckl,nxl->ncyx", down, waves, right)


def sines(
    centre: Float[Tensor, " n"], length: Float[Tensor, " n"], side: int
) -> tuple[Float[Tensor, "n side side"], Float[Tensor, "n side"]]:
    """Of an interval of pixels in a line of `side`, orthonormal sines that are 0 one pixel outside it, as columns.

    Returns:
        [N, pixel, k], 0 outside the interval and from k = its length on; and for each k what the sum of differences to
        both neighbours multiplies a sine by (4 sin^2), 1 where there is no sine.
    """
    first = (centre - (length - 1) / 2).round()
    number = torch.arange(side, device=centre.device, dtype=centre.dtype)
    pixel = (number - first[:, None] + 1)[:, :, None]  # 1 to length, within
    k, intervals = (number + 1)[None, None, :], (length + 1)[:, None, None]
    is_within = (pixel >= 1) & (pixel < intervals) & (k < intervals)
    waves = torch.where(is_within, torch.sin(math.pi * pixel * k / intervals) * (2 / intervals).sqrt(), 0.0)
    values = 4 * torch.sin(math.pi * k / (2 * intervals)).square()
    return waves, torch.where(k < intervals, values, 1.0)[:, 0]
