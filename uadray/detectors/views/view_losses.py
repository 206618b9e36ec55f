"""Losses on what two views of each tile are projected to, as pure functions; all in float32."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

STD, EPSILON = 1.0, 1e-4
"""gamma and epsilon of VICReg's variance term (Bardes et al. 2022, section 4.1)."""


def nt_xent(z: Float[Tensor, "n d"], z_other: Float[Tensor, "n d"], *, temperature: float) -> Float[Tensor, ""]:
    """NT-Xent, the normalised temperature-scaled cross entropy (Chen et al. 2020, eq. 1), mean over all 2 N views.

    -log(exp(sim(z_i, z_j) / t) / sum over k != i of exp(sim(z_i, z_k) / t)); j is the other view of the same tile, sim
    the cosine.
    """
    n = len(z)
    directions = F.normalize(torch.cat([z, z_other]).float(), dim=1)
    similar = directions @ directions.T / temperature
    similar = similar.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    others = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similar, others)


def invariance(z: Float[Tensor, "n d"], z_other: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance of the two views, by dimension (Bardes et al. 2022, eq. 5, and `mse_loss` in algorithm 1).

    Equation 5 has no mean over the dimensions; algorithm 1 has, and the paper's weights belong to it.
    """
    return F.mse_loss(z.float(), z_other.float())


def variance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Hinge on the deviation of each dimension over the batch (Bardes et al. 2022, eq. 1 and 2)."""
    return F.relu(STD - torch.sqrt(z.float().var(0) + EPSILON)).mean()


def covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances of different dimensions, over their number d (Bardes et al. 2022, eq. 3 and 4)."""
    n, dimensions = z.shape
    centred = z.float() - z.float().mean(0)
    c = centred.T @ centred / (n - 1)
    return (c.square().sum() - c.diagonal().square().sum()) / dimensions
