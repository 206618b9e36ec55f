"""A codebook: vectors quantised to the nearest of a few, which follow them.

Straight-through gradients and the commitment loss are those of van den Oord et al. 2017,
https://arxiv.org/abs/1711.00937, section 3.2; vectors of the codebook are exponential averages (its appendix A.1;
Razavi et al. 2019, https://arxiv.org/abs/1906.00446, section 2.1), not learned by gradients. Codes that fall out of use
start again at an output of the encoder (Dhariwal et al. 2020, https://arxiv.org/abs/2005.00341, section 3.1).

Counts and sums are shares of the positions of all workers' batches, so that a group of workers has the same codebook
as one worker with all tiles.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

SMOOTHING = 1e-5
"""Of the counts, so that none is zero (authors' implementation)."""

LEAST_USE = 0.03
"""A code that is used less, of an equal share, starts again. Dhariwal et al. restart below one use a step; with 64
tiles of 8 x 8 codes a step and 128 codes, that is 1 / 32 of an equal share."""

SHARPNESS = 80.0
"""Of the weights by which workers agree on vectors: e^80 is still a float32."""


class Uses(NamedTuple):
    """How a batch used the codes.

    Attributes:
        shares: [k], of the positions, that each code took.
        sums: [k, d], of the vectors that it took, over all positions.
        weights: [k], a random weight of this worker's `starts`.
        starts: [k, d], vectors of the batch times these weights.
    """

    shares: Float[Tensor, " k"]
    sums: Float[Tensor, "k d"]
    weights: Float[Tensor, " k"]
    starts: Float[Tensor, "k d"]


class Codebook(nn.Module):
    """K vectors of length d.

    Attributes of the state:
        vectors: [k, d], e.
        shares: [k], exponential average of the share of positions that each code takes, N in the paper.
        sums: [k, d], exponential average of the sum of what it takes, m in the paper.
    """

    vectors: Tensor
    shares: Tensor
    sums: Tensor

    def __init__(self, codes: int, code_dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.randn(codes, code_dim))
        self.register_buffer("shares", torch.full((codes,), 1 / codes))
        self.register_buffer("sums", self.vectors / codes)

    @torch.no_grad()
    def start(self, h: Float[Tensor, "n d h w"]) -> None:
        """Begin at random outputs of the encoder."""
        self._restart(torch.ones_like(self.shares, dtype=torch.bool), drawn(positions(h), len(self.shares)))

    @torch.no_grad()
    def forward(self, h: Float[Tensor, "n d h w"]) -> Int[Tensor, "n h w"]:
        """The number of the nearest vector at each position (eq. 1)."""
        with torch.autocast(h.device.type, enabled=False):
            flat = positions(h)
            squared = self.vectors.square().sum(1) - 2 * flat @ self.vectors.T  # by |h - e|^2, less |h|^2
            return squared.argmin(1).view(len(h), *h.shape[2:])

    def lookup(self, codes: Int[Tensor, "n h w"]) -> Float[Tensor, "n d h w"]:
        """The vectors of codes, z_q (eq. 2)."""
        return self.vectors[codes].permute(0, 3, 1, 2)

    @torch.no_grad()
    def uses(self, h: Float[Tensor, "n d h w"], codes: Int[Tensor, "n h w"]) -> Uses:
        """How this batch used the codes; the mean over all workers is for `follow`."""
        flat, taken = positions(h), codes.flatten()
        shares = torch.zeros_like(self.shares).index_add_(0, taken, flat.new_full((len(flat),), 1 / len(flat)))
        sums = torch.zeros_like(self.sums).index_add_(0, taken, flat / len(flat))
        weights = (SHARPNESS * (torch.rand_like(self.shares) - 1)).exp()
        return Uses(shares, sums, weights, weights[:, None] * drawn(flat, len(shares)))

    @torch.no_grad()
    def follow(self, uses: Uses, *, decay: float, restarts: bool) -> None:
        """Move the vectors to the mean of what they take (eq. 6 to 8 of appendix A.1).

        Args:
            uses: of the batches of all workers, each of its tensors their mean.
            decay: what is kept of the averages, gamma.
            restarts: codes out of use start at a vector of the batch: of several workers at the one with the greatest
                weight, to which the weighted mean comes close, for weights differ by many orders.
        """
        self.shares.lerp_(uses.shares, 1 - decay)
        self.sums.lerp_(uses.sums, 1 - decay)
        total, k = self.shares.sum(), len(self.shares)
        smoothed = (self.shares + SMOOTHING) / (total + k * SMOOTHING) * total
        self.vectors.copy_(self.sums / smoothed[:, None])
        if restarts:
            self._restart(self.shares * k < LEAST_USE, uses.starts / uses.weights.clamp_min(1e-38)[:, None])

    def _restart(self, is_unused: Tensor, starts: Tensor) -> None:
        """Without waiting for a GPU: all are looked at, and those out of use replaced."""
        share, chosen = 1 / len(self.shares), is_unused[:, None]
        self.vectors.copy_(torch.where(chosen, starts, self.vectors))
        self.sums.copy_(torch.where(chosen, starts * share, self.sums))
        self.shares.copy_(torch.where(is_unused, share, self.shares))

    def perplexity(self) -> Float[Tensor, ""]:
        """Exponential of the entropy of their use: how many codes, used equally, say as much."""
        entropies: Tensor = torch.special.entr(self.shares / self.shares.sum())
        return entropies.sum().exp()


def positions(h: Float[Tensor, "n d h w"]) -> Float[Tensor, "m d"]:
    """The vector at each position, in float32."""
    return h.permute(0, 2, 3, 1).reshape(-1, h.shape[1]).float()


def drawn(rows: Float[Tensor, "m d"], count: int) -> Float[Tensor, "count d"]:
    """Random rows, each drawn from all of them."""
    return rows[torch.randint(len(rows), (count,), device=rows.device)]


def straight_through(h: Float[Tensor, "n d h w"], q: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
    """Q forwards; backwards its gradient goes to h as it is (section 3.2)."""
    return h + (q - h).detach()


def commitment_loss(h: Float[Tensor, "n d h w"], q: Float[Tensor, "n d h w"]) -> Float[Tensor, ""]:
    """Mean squared difference, whose gradient goes to h alone (the last term of eq. 3, without beta)."""
    return (h - q.detach()).square().mean()
