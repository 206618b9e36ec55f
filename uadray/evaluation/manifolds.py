"""Sets of features by their nearest neighbours: precision, recall, and samples that copy. Blocks of rows bound memory.

Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991: a set's manifold is the union of balls about its members,
each as large as the distance to the member's k-th nearest neighbour. Distances are in float64: as differences of large
squares they lose too many digits in float32 where a sample is nearly a copy.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

K = 3
"""Neighbours that make a ball's radius, as in the paper (section 3.1 there)."""

BLOCK_VALUES = 2**24
"""Distances held at once: 128 MB."""


def precision_and_recall(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], *, k: int = K) -> tuple[float, float]:
    """Share of samples in the manifold of real tiles, and of real tiles in that of samples (eq. 2 there)."""
    radii_real, radii_fake = neighbour_distances(real, k=k), neighbour_distances(fake, k=k)
    inside_real = within(fake, real, radii_real)
    inside_fake = within(real, fake, radii_fake)
    return float(inside_real.double().mean()), float(inside_fake.double().mean())


def neighbour_distances(x: Float[Tensor, "n d"], *, k: int) -> Float[Tensor, " n"]:
    """Distance of each row to its k-th nearest other row.

    Raises:
        ValueError: there are no k others.
    """
    if len(x) <= k:
        raise ValueError(f"{len(x)} rows have no {k}th neighbours")
    parts = []
    for start, distances in _blocks(x, x):
        rows = torch.arange(len(distances), device=x.device)
        distances[rows, start + rows] = torch.inf
        parts.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(parts)


def within(x: Float[Tensor, "n d"], centres: Float[Tensor, "m d"], radii: Float[Tensor, " m"]) -> Bool[Tensor, " n"]:
    """Whether each row lies in at least one of the balls."""
    return torch.cat([(distances <= radii).any(dim=1) for _, distances in _blocks(x, centres)])


def nearest(
    x: Float[Tensor, "n d"], of: Float[Tensor, "m d"], *, leaving_out: Int[Tensor, " n"] | None = None
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Which row of `of` is nearest to each row of x, and its distance.

    Args:
        x: rows.
        of: rows that are searched.
        leaving_out: for each row of x one of `of` that does not count, such as itself.
    """
    found = []
    for start, distances in _blocks(x, of):
        if leaving_out is not None:
            distances.scatter_(1, leaving_out[start : start + len(distances), None], torch.inf)
        found.append(distances.min(dim=1))
    return torch.cat([each.indices for each in found]), torch.cat([each.values for each in found])


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[int, Float[Tensor, "rows m"]]]:
    """Distances of some rows of x to all of y, with the number of the first of them."""
    centre = y.double().mean(dim=0)  # about it, squares are small
    y = y.double() - centre
    squares = (y**2).sum(dim=1)
    step = max(1, BLOCK_VALUES // len(y))
    for start in range(0, len(x), step):
        rows = x[start : start + step].double() - centre
        squared = (rows**2).sum(dim=1, keepdim=True) + squares - 2 * rows @ y.T
        yield start, squared.clamp_(min=0).sqrt_()
