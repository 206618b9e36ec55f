"""A variational autoencoder as other detectors build on it: its networks, and the two parts of its bound.

Kingma and Welling 2014, https://arxiv.org/abs/1312.6114, eq. 7 and appendix B and C.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam

from uadray.detectors.likelihood.categories import CategoricalObservation
from uadray.detectors.likelihood.gaussians import gaussian_of, kl_to_standard_normal, log_density, reparameterised
from uadray.detectors.likelihood.observation import GaussianObservation, Observation
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks

SEED = 0
"""Of the noise that scores are made with."""

VARIANCE_RATE = 10.0
"""Learning rate of the variance of x beside that of the others: its logarithm has 2 to go, which Adam's steps of 1e-3
would take 2,000 for."""


def vae_networks(*, width: int, input_px: int, latent_dim: int, colours: int = 0) -> Networks:
    """`encoder` (mean and log variance of z), `decoder` (what is said of x) and `observation` (how x lies about it).

    Args:
        width: channels at half the resolution.
        input_px: side of the image, a power of two from 16.
        latent_dim: length of z.
        colours: classes of pixels, see `categories.CategoricalObservation`; 0: x is Gaussian about the decoder's image.
    """
    return {
        "encoder": VectorEncoder(width=width, input_px=input_px, outputs=2 * latent_dim),
        "decoder": VectorDecoder(width=width, input_px=input_px, latent_dim=latent_dim, outputs=colours or 3),
        "observation": CategoricalObservation(colours) if colours else GaussianObservation(),
    }


def bound_optimizer(networks: Mapping[str, nn.Module], *, learning_rate: float) -> Adam:
    """Adam of all networks' weights, the variance of x a group of its own that learns faster."""
    variance = list(networks["observation"].parameters())
    others = [p for name, network in networks.items() if name != "observation" for p in network.parameters()]
    faster = [{"params": variance, "lr": VARIANCE_RATE * learning_rate}] if variance else []
    groups: list[dict[str, Any]] = [{"params": others}, *faster]
    return Adam(groups, lr=learning_rate, fused=others[0].is_cuda or None)


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
    mean, log_variance = posterior(networks["encoder"], x)
    outputs = networks["decoder"](reparameterised(mean, log_variance, noise))
    observation = observation_of(networks)
    picture = observation.picture(outputs)
    return Bound(observation(x, outputs), kl_to_standard_normal(mean, log_variance), picture)


def posterior(encoder: nn.Module, x: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance of q(z | x), [n, d] each, in float32 in a training of bfloat16 too."""
    return gaussian_of(encoder(x).to(x.dtype))


def observation_of(networks: Mapping[str, nn.Module]) -> Observation:
    """How images lie about what the decoder says."""
    return cast(Observation, networks["observation"])


@dataclass(frozen=True)
class Draws:
    """Of k draws of z for each of n images, in nats.

    Attributes:
        log_likelihood: [k, n], log p(x | z).
        log_weight: [k, n], log p(x, z) - log q(z | x): its mean is the ELBO, and see `gaussians.importance_bound`.
    """

    log_likelihood: Float[Tensor, "k n"]
    log_weight: Float[Tensor, "k n"]


def draws_of(
    networks: Mapping[str, nn.Module], x: Float[Tensor, "n 3 h w"], mean: Float[Tensor, "n d"],
    log_variance: Float[Tensor, "n d"], noise: Float[Tensor, "k d"],
) -> Draws:  # fmt: skip
    """The parts of the bound for k draws, of which all images get the same noise.

    Args:
        networks: `decoder` and `observation`.
        x: in [-1, 1].
        mean: of q(z | x).
        log_variance: of q(z | x).
        noise: standard normal; a row of zeros is the mean of z.
    """
    observation, likelihoods, weights = observation_of(networks), list[Tensor](), list[Tensor]()
    for row in noise:
        z = reparameterised(mean, log_variance, row.expand_as(mean))
        likelihoods.append(observation(x, networks["decoder"](z)).flatten(1).sum(1))
        zeros = torch.zeros_like(z)
        prior, posterior_density = log_density(z, zeros, zeros), log_density(z, mean, log_variance)
        weights.append(likelihoods[-1] + prior - posterior_density)
    return Draws(torch.stack(likelihoods), torch.stack(weights))


def drawn_noise(n: int, latent_dim: int, device: torch.device) -> Float[Tensor, "n d"]:
    """Standard normal noise for a training step: other at each call."""
    return torch.randn(n, latent_dim, device=device)


def fixed_noise(draws: int, latent_dim: int) -> Float[Tensor, "k d"]:
    """Standard normal noise that is always the same, so that a tile's score is; of no draws a row of zeros."""
    if not draws:
        return torch.zeros(1, latent_dim)
    return torch.randn(draws, latent_dim, generator=torch.Generator().manual_seed(SEED))
