"""Where an image would have to change for a bound to rise: gradients with respect to its pixels, as maps.

Zimmerer et al. 2019, https://arxiv.org/abs/1907.02796 : the gradient of the KL divergence tells where the encoder is
pulled away from the prior, and times the reconstruction error it is their best map. Smoothed as there: mean over noisy
copies (SmoothGrad, Smilkov et al. 2017, https://arxiv.org/abs/1706.03825, eq. 1), then a Gaussian over pixels.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.likelihood.gaussians import kl_to_standard_normal
from uadray.detectors.likelihood.vae_part import SEED, bound_of, posterior
from uadray.detectors.views.scanners import blurred

MapKind = Literal["reconstruction_error", "reconstruction_gradient", "kl_gradient", "elbo_gradient", "combined"]
"""`combined` is the gradient of the KL divergence times the reconstruction error (the paper's proposal)."""

Value = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, " n"]]
"""Images -> one value each."""


def value_of(kind: MapKind, networks: Mapping[str, nn.Module], *, latent_dim: int) -> Value:
    """What is differentiated for a map, in nats: KL, -log p(x | z) or their sum, z the mean of q(z | x)."""

    def kl(x: Tensor) -> Tensor:
        return kl_to_standard_normal(*posterior(networks["encoder"], x))

    def reconstruction(x: Tensor) -> Tensor:
        return -bound_of(networks, x, x.new_zeros(len(x), latent_dim)).log_likelihood.flatten(1).sum(1)

    def minus_elbo(x: Tensor) -> Tensor:
        return -bound_of(networks, x, x.new_zeros(len(x), latent_dim)).elbo

    return {"reconstruction_gradient": reconstruction, "elbo_gradient": minus_elbo}.get(kind, kl)


def gradient_map(
    value: Value, x: Float[Tensor, "n 3 h w"], *, noise: Float[Tensor, "k 3 h w"], blur_px: float
) -> Float[Tensor, "n h w"]:
    """Mean over colours and noisy copies of |d value / d x|, under a Gaussian.

    Args:
        value: one of each image, which depends on that image alone.
        x: in [-1, 1]; may come from within `torch.inference_mode`.
        noise: added to each image in turn, the same for all; zeros take the image as it is.
        blur_px: deviation of the Gaussian; 0 for none.
    """
    total = torch.zeros_like(x[:, 0])
    for added in noise:
        total = total + gradient(value, x + added).abs().mean(1)
    sigma = torch.full((len(x),), float(blur_px), device=x.device)
    return blurred((total / len(noise))[:, None], sigma, most_px=blur_px).squeeze(1)


def gradient(value: Value, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """D value / d x of each image."""
    with torch.inference_mode(False), torch.enable_grad():
        seen = x.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(value(seen).sum(), seen)
    return found


def fixed_pictures(draws: int, side_px: int, *, deviation: float) -> Float[Tensor, "k 3 h w"]:
    """Noise that is always the same; of no draws one picture of zeros."""
    if not draws:
        return torch.zeros(1, 3, side_px, side_px)
    generator = torch.Generator().manual_seed(SEED)
    return deviation * torch.randn(draws, 3, side_px, side_px, generator=generator)
