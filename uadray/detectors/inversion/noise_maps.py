"""Noise maps of a generator as what an image is searched by. https://arxiv.org/abs/1912.04958 (appendix D).

Karras et al. 2020: the maps are optimised beside the latent, and must not take over what the latent should say. So a
penalty keeps neighbouring values uncorrelated, at the map's own side and at every half of it down to 8 px, and after
each step every map is brought back to mean 0 and variance 1.

As in the paper: the sum over maps and sides of the squares of the two correlations with the neighbour, edges wrapping
around; sides are halved by means over 2 x 2 px, times 2, which keeps the variance of white noise. Different: the maps
start at the generator's fixed ones, one draw of white noise that is the same for every image.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LEAST_PX = 8
"""Side down to which maps are halved (appendix D)."""


def start(fixed: Sequence[Tensor], n: int) -> list[Tensor]:
    """The generator's fixed maps for n images each, brought to mean 0 and variance 1.

    Args:
        fixed: one [h, w] a layer, or with dimensions of 1 before it.
        n: images.

    Returns:
        [n, 1, h, w] each, with memory of their own.
    """
    maps = [m.detach().reshape(1, 1, *m.shape[-2:]).repeat(n, 1, 1, 1) for m in fixed]
    normalise_(maps)
    return maps


@torch.no_grad()
def normalise_(maps: Sequence[Float[Tensor, "n 1 _ _"]]) -> None:
    """Bring each map of each image, in place, to mean 0 and variance 1."""
    for m in maps:
        m.sub_(m.mean((2, 3), keepdim=True))
        m.mul_(m.square().mean((2, 3), keepdim=True).clamp_min(1e-12).rsqrt())


def penalty(maps: Sequence[Float[Tensor, "n 1 _ _"]]) -> Float[Tensor, " n"]:
    """How much of a picture the maps of each image carry (appendix D, sum of L_ij); of white noise near 0.

    Args:
        maps: one a layer, at least one.
    """
    terms = [correlation.square() for m in maps for side in halved(m) for correlation in correlations(side)]
    return torch.stack(terms).sum(0)


def halved(m: Float[Tensor, "n 1 h w"]) -> Iterator[Tensor]:
    """A map, its half, the half of that, ... down to a side of `LEAST_PX`, each of the variance of the first."""
    yield m
    while m.shape[-1] > LEAST_PX:
        m = 2 * F.avg_pool2d(m, 2)
        yield m


def correlations(m: Float[Tensor, "n 1 h w"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Mean products of a map's values with their neighbours to the left and above, edges wrapping around.

    Of a map of mean 0 and variance 1 they are its autocorrelations at a distance of one.

    >>> stripes = torch.tensor([1.0, -1.0]).repeat(4, 2).view(1, 1, 4, 4)
    >>> [c.item() for c in correlations(stripes)]
    [-1.0, 1.0]
    """
    return (m * m.roll(1, 3)).mean((1, 2, 3)), (m * m.roll(1, 2)).mean((1, 2, 3))


@torch.no_grad()
def autocorrelation(maps: Sequence[Float[Tensor, "n 1 _ _"]]) -> float:
    """Root mean square of the correlations of all maps and sides: what is stated of optimised maps.

    Of white noise it is about 1 / side, since a finite map has correlations by chance.
    """
    found = [correlation for m in maps for side in halved(m) for correlation in correlations(side)]
    return float(torch.stack(found).square().mean().sqrt())
