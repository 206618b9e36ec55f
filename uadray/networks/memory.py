"""A memory of vectors, from which each position of a feature map recalls what is most like it.

Gong et al. 2019, https://arxiv.org/abs/1904.02639, section 3.3.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-12
"""Keeps a quotient of zeros at zero (authors' code): a position to which no item is near enough recalls nothing."""


def shrunk(weights: Float[Tensor, "... items"], threshold: float) -> Float[Tensor, "... items"]:
    """Hard shrinkage (Gong et al. 2019, eq. 6 and 7): weights up to the threshold are zero, the others sum to 1.

    All are zero where none is above the threshold.
    """
    kept = torch.where(weights > threshold, weights, 0)
    return kept / kept.sum(-1, keepdim=True).clamp_min(EPSILON)


def entropy(weights: Float[Tensor, "... items"]) -> Float[Tensor, "..."]:
    """Of addressing weights, in nats (Gong et al. 2019, section 3.4): 0 where one item is recalled alone."""
    return -(weights * (weights + EPSILON).log()).sum(-1)


class Memory(nn.Module):
    """Items that are addressed by what they are like, and learned with the rest of a network.

    Args:
        items: how many there are.
        channels: length of each.
        threshold: of the shrinkage; 0 keeps all weights.
        is_cosine: weights are the softmax of cosine similarities (eq. 4 and 5); otherwise of inner products.
    """

    def __init__(self, *, items: int, channels: int, threshold: float, is_cosine: bool = True) -> None:
        super().__init__()
        self.threshold, self.is_cosine = threshold, is_cosine
        spread = 1 / math.sqrt(channels)  # authors' code
        self.items = nn.Parameter(torch.empty(items, channels).uniform_(-spread, spread))

    def addressing(self, z: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n h w items"]:
        """The weights of all items at each position; always in float32, whose differences the threshold cuts."""
        with torch.autocast(z.device.type, enabled=False):
            queries, items = z.float().permute(0, 2, 3, 1), self.items.float()
            if self.is_cosine:
                queries, items = F.normalize(queries, dim=-1), F.normalize(items, dim=-1)
            return shrunk(torch.softmax(queries @ items.T, -1), self.threshold)

    def recalled(self, weights: Float[Tensor, "n h w items"]) -> Float[Tensor, "n channels h w"]:
        """The weighted sum of items at each position (section 3.3)."""
        return (weights @ self.items.to(weights.dtype)).permute(0, 3, 1, 2)

    def forward(self, z: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels h w"]:
        """What each position recalls."""
        return self.recalled(self.addressing(z))
