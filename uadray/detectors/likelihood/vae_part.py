"""A variational autoencoder as other detectors build on it: its networks, and the two parts of its bound.

Kingma and Welling 2014, https://arxiv.org/abs/1312.6114, eq. 7 and appendix B and C.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.likelihood.gaussians import gaussian_of, kl_to_standard_normal, reparameterised
from uadray.detectors.likelihood.observation import GaussianObservation
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks


def vae_networks(*, width: int, input_px: int, latent_dim: int) -> Networks:
    """`encoder` (mean and log variance of z), `decoder` (the mean of x) and `observation` (its variance)."""
    return {
        "encoder": VectorEncoder(width=width, input_px=input_px, outputs=2 * latent_dim),
        "decoder": VectorDecoder(width=width, input_px=input_px, latent_dim=latent_dim),
        "observation": GaussianObservation(),
    }


@dataclass(frozen=True)
class Bound:
    """The evidence lower bound of n images in its two parts, in nats.

    Attributes:
        log_likelihood: [n, h, w], log p(x | z) at each pixel, z one draw.
        kl: [n], KL(q(z | x) || p(z)).
        x_hat: [n, 3, h, w], the mean of x given z.
    """

    log_likelihood: Float[Tensor, "n h w"]
    kl: Float[Tensor, " n"]
    x_hat: Float[Tensor, "n 3 h w"]

    @property
    def elbo(self) -> Float[Tensor, " n"]:
        """E_q[log p(x | z)] - KL, of one draw (eq. 7)."""
        return self.log_likelihood.flatten(1).sum(1) - self.kl


def bound_of(networks: Mapping[str, nn.Module], x: Float[Tensor, "n 3 h w"], noise: Float[Tensor, "n d"]) -> Bound:
    """The bound of images in [-1, 1]; `noise` is standard normal, and zeros take the mean of z. Differentiable in x."""
    mean, log_variance = gaussian_of(networks["encoder"](x))
    x_hat = networks["decoder"](reparameterised(mean, log_variance, noise))
    observation = cast(GaussianObservation, networks["observation"])
    return Bound(observation(x, x_hat), kl_to_standard_normal(mean, log_variance), x_hat)


def drawn_noise(n: int, latent_dim: int, device: torch.device) -> Float[Tensor, "n d"]:
    """Standard normal noise for a training step: other at each call."""
    return torch.randn(n, latent_dim, device=device)
