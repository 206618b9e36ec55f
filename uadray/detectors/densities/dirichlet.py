"""Dirichlet distributions, fitted to the means of what was observed."""

import torch
from jaxtyping import Float
from torch import Tensor

EULER = 0.5772156649015329


def dirichlet_mle(
    mean_p: Float[Tensor, "t k"], mean_log_p: Float[Tensor, "t k"], *, iterations: int = 1000
) -> Float[Tensor, "t k"]:
    """Parameters of Dirichlet distributions, one a row, that make observations likeliest, from their means.

    The fixed point of Minka 2000, "Estimating a Dirichlet distribution", eq. 9, begun as Wicker et al. 2008 do.
    """
    spread = (mean_p * (mean_p.clamp_min(1e-12).log() - mean_log_p)).sum(1, keepdim=True).clamp_min(1e-9)
    alpha = (mean_p * (mean_p.shape[1] - 1) * EULER / spread).clamp(1e-6, 1e6)
    for _ in range(iterations):
        before, alpha = alpha, _inverse_digamma(torch.digamma(alpha.sum(1, keepdim=True)) + mean_log_p)
        if torch.allclose(alpha, before, rtol=1e-7, atol=1e-9):
            break
    return alpha


def _inverse_digamma(y: Tensor) -> Tensor:
    """Newton's method, begun as Minka 2000, appendix C, does; five steps are exact to 14 digits."""
    x = torch.where(y >= -2.22, y.exp() + 0.5, -1 / (y + EULER))
    for _ in range(5):
        x = x - (torch.digamma(x) - y) / torch.polygamma(1, x)
    return x
