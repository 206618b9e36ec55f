"""Gaussians with independent coordinates, as variational autoencoders have them; everything in nats, a value a sample.

Kingma and Welling 2014, https://arxiv.org/abs/1312.6114 .
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LOG_VARIANCES = (-12.0, 12.0)
"""Least and largest logarithm of a variance that an encoder can say, deviations of 0.0025 and 400: its exponential, and
that of its negative, stay far within float32 whatever an untrained encoder says."""


def gaussian_of(parameters: Float[Tensor, "n two_d ..."]) -> tuple[Tensor, Tensor]:
    """An encoder's output [n, 2 d, ...] as mean and logarithm of the variance, [n, d, ...] each."""
    mean, log_variance = parameters.chunk(2, 1)
    return mean, log_variance.clamp(*LOG_VARIANCES)


def reparameterised(
    mean: Float[Tensor, "n ..."], log_variance: Float[Tensor, "n ..."], noise: Float[Tensor, "n ..."]
) -> Float[Tensor, "n ..."]:
    """A draw z = mean + sigma noise, with gradients to both (Kingma and Welling 2014, section 2.4)."""
    return mean + (0.5 * log_variance).exp() * noise


def kl_to_standard_normal(mean: Float[Tensor, "n ..."], log_variance: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """KL(N(mean, variance) || N(0, I)) (Kingma and Welling 2014, appendix B), summed over coordinates."""
    each = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return each.flatten(1).sum(1)


def log_density(
    x: Float[Tensor, "n ..."], mean: Float[Tensor, "n ..."], log_variance: Float[Tensor, "n ..."]
) -> Float[Tensor, " n"]:
    """Log N(x; mean, variance), summed over coordinates."""
    each = -0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * (-log_variance).exp())
    return each.flatten(1).sum(1)


def importance_bound(log_weights: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """Log of the mean importance weight p(x, z) / q(z | x) over k draws of q: a bound of log p(x).

    Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8; of one draw it is the ELBO's, and it rises with k.
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
