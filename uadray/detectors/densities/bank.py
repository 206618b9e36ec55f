"""Vectors of normal tissue, the nearest of them, and how dense they lie there."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from uadray.detectors.densities.reservoir import Reservoir, coreset
from uadray.errors import InputError

AT_ONCE = 16_000_000
"""Numbers of a table of distances that is held at once: 128 MB."""

LEAST_REACH = 1e-10
"""Added to a mean distance before it is divided by, as scikit-learn does: many rows may lie at one place."""


class Bank(nn.Module):
    """The rows that tiles are compared with, and the local density at each of them.

    Attributes of the state:
        reservoir: of candidates; once fitted its first `count` rows are the bank.
        count: of the rows of the bank; 0 until it is fitted.
        reach: [capacity], distance of each to its k-th neighbour.
        density: [capacity], the local reachability density of each (Breunig et al. 2000, definition 6).
    """

    count: Tensor
    reach: Tensor
    density: Tensor

    def __init__(self, capacity: int, channels: int) -> None:
        super().__init__()
        self.reservoir = Reservoir(capacity, channels)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("reach", torch.full((capacity,), torch.nan))
        self.register_buffer("density", torch.full((capacity,), torch.nan))

    def fit(self, *, size: int, neighbours: int) -> None:
        """Choose the rows among the candidates, and tell their densities.

        Args:
            size: of the bank; fewer than there are candidates, they are a coreset.
            neighbours: by which densities are told.

        Raises:
            UnsuitableTilesError: there are too few.
        """
        rows = self.reservoir.at_least(neighbours + 1)
        if size < len(rows):
            rows = rows[coreset(rows, size)]
        n = len(rows)
        self.count.fill_(n)
        self.reservoir.rows.zero_()
        self.reservoir.rows[:n] = rows
        self.reservoir.keys[n:] = torch.inf
        distances, indices = nearest(rows, rows, neighbours, is_same=True)
        self.reach[:n] = distances[:, -1]
        self.density[:n] = 1 / (reachability(distances, self.reach[indices]) + LEAST_REACH)

    def rows(self, least: int) -> Float[Tensor, "m d"]:
        """The bank.

        Raises:
            InputError: it has fewer than `least` rows: it was not fitted, or comes from elsewhere.
        """
        n = int(self.count)
        if not least <= n <= len(self.reservoir.rows):
            raise InputError(f"a bank of {n} rows; at least {least} are compared with")
        return self.reservoir.rows[:n]


def reachability(distances: Float[Tensor, "n k"], reach: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Mean reachability distance (definition 5): no neighbour is nearer than its own k-th neighbour is to it."""
    return distances.maximum(reach).mean(1)


def outlier_factor(
    distances: Float[Tensor, "n k"], reach: Float[Tensor, "n k"], density: Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """Local outlier factor (definition 7): how much denser neighbours lie than the row; about 1 among its like.

    Args:
        distances: to the neighbours.
        reach: distance of each neighbour to its own k-th neighbour.
        density: local reachability density of each neighbour.
    """
    return density.mean(1) * (reachability(distances, reach) + LEAST_REACH)


def nearest(
    queries: Float[Tensor, "n d"], rows: Float[Tensor, "m d"], count: int, *, is_same: bool = False
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Euclidean distances to the nearest rows, ascending, and their numbers.

    Which are nearest is told from matrix products in float64, how near from differences: a product of float32, of which
    a GPU may take ten bits alone, loses what is small beside the vectors themselves.

    Args:
        queries: vectors.
        rows: that they are compared with; at least `count`, and one more where `is_same`.
        count: of the neighbours.
        is_same: queries are the rows: none is its own neighbour.
    """
    exact = rows.double()
    squares = exact.square().sum(1)
    distances, indices = list[Tensor](), list[Tensor]()
    for part, numbers in _parts(queries, max(len(rows), count * rows.shape[1])):
        order = squares - 2 * part.double() @ exact.T  # by |q - r|^2, less |q|^2
        if is_same:
            order.scatter_(1, numbers[:, None], torch.inf)
        near = order.topk(count, largest=False).indices
        distances.append((rows[near] - part[:, None]).square().sum(2).sqrt())
        indices.append(near)
    return torch.cat(distances), torch.cat(indices)


def _parts(queries: Tensor, numbers_each: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Queries and their numbers, as many as may be looked at together."""
    numbers = torch.arange(len(queries), device=queries.device)
    size = max(1, AT_ONCE // numbers_each)
    return zip(queries.split(size), numbers.split(size), strict=True)
