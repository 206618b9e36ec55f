"""Latents from the distribution of a training, and what is said of generators that have no second latent space."""

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.errors import InputError


def standard_normal(n: int, latent_dim: int, *, rng: torch.Generator) -> Float[Tensor, "n latent_dim"]:
    """Latents z of a standard normal, on the CPU."""
    return torch.randn(n, latent_dim, generator=rng)


def as_they_are(z: Tensor, *, truncation: float, kind: str) -> Tensor:
    """The latents themselves: what pictures are drawn from where there is no second latent space W.

    Raises:
        InputError: they shall be truncated, which is a matter of W (Karras et al. 2019, appendix B).
    """
    if truncation != 1.0:
        raise InputError(
            f"truncation {truncation:g}: a {kind} has no latent space W to truncate in; leave truncation at 1 "
            "(stylegan and stylegan2 have one)"
        )
    return z
