"""Noise of several scales: octaves of simplex noise, as AnoDDPM diffuses with it in place of white noise.

Perlin 2001, "Noise hardware", and Gustavson 2005, "Simplex noise demystified", for one octave: space is skewed so that
cubes become six simplices each, every corner has a gradient, and a point sees those of its four corners through a
radial kernel. Wyatt et al. 2022 for the octaves: planes of noise in three dimensions, with half the wavelength and
`PERSISTENCE` of the amplitude from octave to octave.

Different: simplex noise in the place of OpenSimplex; scaled to variance 1, as the forward process assumes it; each
image and colour has a plane of its own (theirs have one colour).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

PERSISTENCE = 0.8
"""Of the amplitude from one octave to the next (Wyatt et al. 2022, section 3.2)."""

LONGEST_SHARE = 4
"""The longest wavelength is the side over this: 64 px of 256 (Wyatt et al. 2022)."""

SHORTEST_PX = 2
"""Wavelength of the last octave: that of the sixth of the paper's, from 64 px."""

TABLE = 256
"""Gradients repeat after so many corners a dimension (Perlin 2001)."""

KERNEL = 0.5
"""Squared radius of a corner's kernel: the squared distance of a corner to the opposite face, so that noise is
continuous."""

DEVIATION = 0.005107
"""Of one octave before it is scaled; measured over 17 million points, 16 tables."""

GRADIENTS = tuple(
    tuple(vector)
    for vector in torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3).tolist()
    if sum(abs(each) for each in vector) == 2
)
"""The twelve directions from a cube's centre to the middles of its edges (Perlin 2001)."""


def wavelengths(side_px: int) -> list[int]:
    """Of the octaves for images of this side, in pixels.

    >>> wavelengths(256), wavelengths(64), wavelengths(32)
    ([64, 32, 16, 8, 4, 2], [16, 8, 4, 2], [8, 4, 2])
    """
    longest = max(side_px // LONGEST_SHARE, SHORTEST_PX)
    result = [longest]
    while result[-1] // 2 >= SHORTEST_PX:
        result.append(result[-1] // 2)
    return result


def octaves(
    n: int, side_px: int, *, device: torch.device | str = "cpu", rng: torch.Generator | None = None
) -> Float[Tensor, "n side side"]:
    """Planes of noise, each by itself: mean 0 and variance 1 over all that can be drawn.

    Args:
        n: planes.
        side_px: of each.
        device: on which it is drawn.
        rng: of that device; None: torch's own.
    """
    table = torch.randperm(TABLE, device=device, generator=rng)
    pixels = torch.arange(side_px, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    plane = torch.stack([x, y, torch.zeros_like(x)])  # [3, side, side]
    total, variance = torch.zeros(n, side_px, side_px, device=device), 0.0
    for number, wavelength in enumerate(wavelengths(side_px)):
        place = torch.rand(n, 3, 1, 1, device=device, generator=rng) * TABLE
        amplitude = PERSISTENCE**number
        total += amplitude * simplex(plane / wavelength + place, table)
        variance += amplitude**2
    noise: Tensor = total / (DEVIATION * math.sqrt(variance))
    return noise


def simplex(points: Float[Tensor, "n 3 h w"], table: Int[Tensor, " table"]) -> Float[Tensor, "n h w"]:
    """Simplex noise at points of three dimensions, not scaled; a corner's gradient is what the table makes of it."""
    cell = (points + points.sum(1, keepdim=True) / 3).floor()
    within = points - cell + cell.sum(1, keepdim=True) / 6
    x, y, z = within.unbind(1)
    rank = torch.stack(
        [(x >= y).int() + (x >= z).int(), (y > x).int() + (y >= z).int(), (z > x).int() + (z > y).int()], 1
    )  # the largest coordinate has 2
    directions = torch.tensor(GRADIENTS, device=points.device, dtype=points.dtype)
    corner_of_cell, total = cell.long(), torch.zeros_like(x)
    for corner in range(4):
        step = (rank >= 3 - corner).long()
        offset = within - step + corner / 6
        i, j, k = ((corner_of_cell + step) % TABLE).unbind(1)
        number = table[(table[(table[k] + j) % TABLE] + i) % TABLE] % len(GRADIENTS)
        slope = (directions[number] * offset.permute(0, 2, 3, 1)).sum(-1)
        total += (KERNEL - offset.square().sum(1)).clamp_min(0).pow(4) * slope
    return total
