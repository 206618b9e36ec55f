"""Scores -> p-values among held-out normal tiles, and the p-values of several detectors -> one score.

The combination is a score like any other: slides are called by conformal p-values of their own, so that nothing here
has to hold exactly. What matters is the order of tiles, which stays that of a member where the others do not differ.

    fisher      -sum log p (Fisher 1932, "Statistical Methods for Research Workers", 21.1; weights: Good 1955). As an
                order of tiles it is the geometric mean of the p-values, which Vovk and Wang 2020
                (https://doi.org/10.1093/biomet/asaa027) merge without independence, up to a factor
    stouffer    the mean of z (Stouffer et al. 1949, "The American Soldier"; weights: Liptak 1958)
    minimum     -log of the Bonferroni-corrected least p (Tippett 1931; weights: Genovese et al. 2006)
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.special import log_ndtr, ndtri

from uadray.detectors.trainee import UnsuitableTilesError

Rule = Literal["fisher", "stouffer", "minimum"]

TAIL = 0.05
"""Beyond this share of the normal tiles, on either side, p falls exponentially."""

MOST_BELOW = 30.0
"""Tail lengths below the lower tail's start after which p stays: 1 - p is 5e-15 there, and z finite."""

ASYMPTOTIC = -30.0
"""Below this log p, z is found from log p itself: p would underflow soon."""


class NormalScores(nn.Module):
    """How the scores of k members are distributed over normal tiles: sums alone, so that workers can average them.

    Between the 5 % and the 95 % quantile of the first tiles, scores are counted in bins. Beyond, the mean excess gives
    an exponential tail, as peaks over a threshold have it (Davison and Smith 1990, shape 0): p falls on beyond the
    highest score that was seen, and the order of tiles is kept.

    Attributes of the state:
        edges: [k, bins + 1], ascending.
        counts: [k, bins + 2], tiles below the first edge, in each bin, and from the last edge on.
        excess: [k, 2], sums of how far tiles lie below the first and above the last edge.
    """

    edges: Tensor
    counts: Tensor
    excess: Tensor

    def __init__(self, members: int, *, bins: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.zeros(members, bins + 1, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(members, bins + 2, dtype=torch.float64))
        self.register_buffer("excess", torch.zeros(members, 2, dtype=torch.float64))

    def place(self, scores: Float[Tensor, "k n"]) -> None:
        """Set the edges, by the scores of some hundred tiles; workers may average them."""
        levels = torch.linspace(TAIL, 1 - TAIL, self.edges.shape[1], dtype=torch.float64, device=scores.device)
        self.edges.copy_(torch.quantile(scores.double(), levels, dim=1).T)

    def check_edges(self) -> None:
        """Refuse members that say nothing.

        Raises:
            UnsuitableTilesError: one gives nearly all tiles the same score, or what is no number.
        """
        for number, (low, high) in enumerate(self.edges[:, [0, -1]].tolist(), start=1):
            if not low < high:
                raise UnsuitableTilesError(f"combined: member {number} gives nearly all normal tiles the score {low:g}")

    def tally(self, scores: Float[Tensor, "k n"]) -> Tensor:
        """What these tiles add to counts and excess: [k, bins + 4]."""
        scores = scores.double()
        counts = torch.zeros_like(self.counts).scatter_add_(1, self._bins(scores), torch.ones_like(scores))
        low, high = self.edges[:, :1], self.edges[:, -1:]
        excess = torch.stack([(low - scores).clamp_min(0).sum(1), (scores - high).clamp_min(0).sum(1)], 1)
        return torch.cat([counts, excess], 1)

    def add(self, tally: Tensor) -> None:
        """Add what `tally` gave, or its mean over workers."""
        self.counts += tally[:, :-2]
        self.excess += tally[:, -2:]

    def forward(self, scores: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """Log of each score's p: the share of normal tiles with this score or a higher one, in float64."""
        scores = scores.double()
        above = (self.counts.flip(1).cumsum(1).flip(1)[:, 1:] + 0.5) / (self.counts.sum(1, keepdim=True) + 1)
        low, high = self.edges[:, :1], self.edges[:, -1:]
        below_length, above_length = self._tail_lengths().split(1, 1)
        lower = torch.log1p(-(1 - above[:, :1]) * torch.exp(-((low - scores) / below_length).clamp(0, MOST_BELOW)))
        upper = above[:, -1:].log() - (scores - high) / above_length
        inside = self._between_edges(scores, above).log()
        return torch.where(scores >= high, upper, torch.where(scores < low, lower, inside))

    def _bins(self, scores: Tensor) -> Tensor:
        return torch.searchsorted(self.edges, scores.contiguous(), right=True)

    def _between_edges(self, scores: Tensor, above: Tensor) -> Tensor:
        """The share by linear interpolation between edges, of scores that lie there."""
        right = self._bins(scores).clamp(1, self.edges.shape[1] - 1)
        (x0, x1), (y0, y1) = ((t.gather(1, right - 1), t.gather(1, right)) for t in (self.edges, above))
        return y0 + (y1 - y0) * ((scores - x0) / (x1 - x0).clamp_min(1e-300)).clamp(0, 1)

    def _tail_lengths(self) -> Tensor:
        """[k, 2], the mean excess below and above; of a tail without tiles, a thousandth of what lies between."""
        length = self.excess / self.counts[:, [0, -1]].clamp_min(1e-300)
        return torch.maximum(length, 1e-3 * (self.edges[:, -1:] - self.edges[:, :1]))


def fisher(log_p: Float[Tensor, "k n"], weights: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """-sum of weighted log p."""
    return -(weights[:, None] * log_p).sum(0)


def stouffer(log_p: Float[Tensor, "k n"], weights: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """Weighted sum of z, in its deviations if members were independent."""
    return (weights[:, None] * z_of(log_p)).sum(0) / weights.square().sum().sqrt()


def minimum(log_p: Float[Tensor, "k n"], weights: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """-log of k times the least p; not cut off at p = 1, so that order is kept."""
    return (weights.log()[:, None] - log_p).amax(0) - math.log(len(log_p))


RULES: dict[Rule, Callable[[Tensor, Tensor], Tensor]] = {
    "fisher": fisher, "stouffer": stouffer, "minimum": minimum,
}  # fmt: skip
"""Each takes log p and the members' weights, whose sum is k; higher = more abnormal."""


def z_of(log_p: Tensor) -> Tensor:
    """The normal deviate with this upper tail; by Newton's method on log p where p would underflow."""
    near = -ndtri(log_p.clamp_min(ASYMPTOTIC).exp())
    t = -log_p.clamp_max(ASYMPTOTIC)
    z = (2 * t - (4 * math.pi * t).log()).sqrt()
    for _ in range(3):
        tail = log_ndtr(-z)
        z = z + (tail + t) * torch.exp(tail + z.square() / 2 + math.log(2 * math.pi) / 2)
    return torch.where(log_p < ASYMPTOTIC, z, near)
