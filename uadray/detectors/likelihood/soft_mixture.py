"""A mixture of Gaussians whose memberships a network tells: its parameters from sums, and the energy of a sample.

Zong et al. 2018, https://openreview.net/forum?id=BJJLHbb0-, section 3.3 (DAGMM). Without steps of expectation and
maximisation: memberships are given, and everything is differentiable in them and in the samples. All in float64, since
products of small variances leave float32, and autocast leaves float64 as it is.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

LEAST_VARIANCE = 1e-6
"""Added to variances: a component of fewer samples than dimensions would have no density. A six-hundredth of the least
eigenvalue of normal tiles (6e-4, `dagmm` with codes of two numbers after a minute of a core)."""

LEAST_SHARE = 1e-12
"""Of a component: one that no sample belongs to divides by it."""

Parameters = tuple[Tensor, Tensor, Tensor]
"""Of K Gaussians: shares phi [K], means [K, d], covariances [K, d, d]."""


def mixture_sums(z: Float[Tensor, "n d"], gamma: Float[Tensor, "n k"]) -> list[Tensor]:
    """Number of samples, and sums of gamma [K], gamma z [K, d] and gamma z z' [K, d, d]."""
    z, gamma = z.double(), gamma.double()
    n = gamma.new_tensor(len(z))
    return [n, gamma.sum(0), gamma.T @ z, torch.einsum("nk,nd,ne->kde", gamma, z, z)]


def mixture_of(sums: Iterable[Tensor]) -> Parameters:
    """Shares, means and covariances of the memberships in these sums (equation 5)."""
    n, total, first, second = sums
    weight = total.clamp_min(LEAST_SHARE)[:, None]
    mean = first / weight
    covariance = second / weight[:, :, None] - mean[:, :, None] * mean[:, None, :]
    return total / n, mean, covariance


def sample_energy(z: Float[Tensor, "n d"], parameters: Parameters) -> Float[Tensor, " n"]:
    """-log sum_k phi_k N(z; mu_k, Sigma_k) in nats (equation 6); `LEAST_VARIANCE` is on the diagonal of each Sigma."""
    phi, mean, covariance = (t.double() for t in parameters)
    floor = LEAST_VARIANCE * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    factor = torch.linalg.cholesky_ex(covariance + floor).L  # without `_ex` a GPU would be waited for
    offset = (z.double()[None] - mean[:, None]).mT  # [K, d, N]
    squared = torch.linalg.solve_triangular(factor, offset, upper=False).square().sum(1)
    log_root = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = 0.5 * z.shape[1] * math.log(2 * math.pi)
    log_density = phi.clamp_min(LEAST_SHARE).log()[:, None] - 0.5 * squared - log_root[:, None] - constant
    return -torch.logsumexp(log_density, 0)


def singularity_penalty(covariance: Float[Tensor, "k d d"]) -> Float[Tensor, ""]:
    """P(Sigma): the sum of 1 / variance over components and dimensions (section 3.4)."""
    return (1 / (covariance.diagonal(dim1=1, dim2=2) + LEAST_VARIANCE)).sum()


class SoftMixture(nn.Module):
    """Sums over all normal samples, and the mixture that is told from them; no numbers until it is fitted."""

    def __init__(self, gaussians: int, dimensions: int) -> None:
        super().__init__()
        k, d = gaussians, dimensions
        for name, shape in (("count", ()), ("total", (k,)), ("first", (k, d)), ("second", (k, d, d))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        for name, shape in (("phi", (k,)), ("mean", (k, d)), ("covariance", (k, d, d))):
            self.register_buffer(name, torch.full(shape, torch.nan, dtype=torch.float64))

    def sums(self) -> list[Tensor]:
        """Of all that was added."""
        return [self.get_buffer(name) for name in ("count", "total", "first", "second")]

    def add(self, sums: Iterable[Tensor]) -> None:
        """Add what `mixture_sums` gave, or its mean over workers."""
        for buffer, more in zip(self.sums(), sums, strict=True):
            buffer += more

    def fit(self) -> None:
        """Tell the mixture from the sums."""
        for name, value in zip(("phi", "mean", "covariance"), mixture_of(self.sums()), strict=True):
            self.get_buffer(name).copy_(value)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The energy of each sample, in nats."""
        return sample_energy(z, (self.get_buffer("phi"), self.get_buffer("mean"), self.get_buffer("covariance")))
