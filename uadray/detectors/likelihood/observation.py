"""How probable an image is, given what a decoder says of it; here: a Gaussian about it, of one learned variance.

The variance is learned with the decoder, so that reconstruction and KL are weighed by the model itself and a bound of
log p(x) is one in nats (Rybkin et al. 2021, https://arxiv.org/abs/2006.13202, section 3.1): papers that take a squared
error without it weigh both by hand.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.trainee import Average

LEAST = -8.0
"""Of the logarithm of the variance: a deviation of 2.3 grey levels of 255, far below what a decoder of tissue reaches
(.35 of images in [-1, 1], 45 grey levels, after 800 steps)."""


@runtime_checkable
class Observation(Protocol):
    """What a bound needs of p(x | z), of images [n, 3, h, w] in [-1, 1] and a decoder's outputs [n, c, h, w]."""

    def fit(self, x: Tensor, *, average: Average) -> None:
        """Look at normal images [n, 3, h, w] before the first step, on every worker at others."""
        ...

    def __call__(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Log density at each pixel, in nats: [n, h, w]."""
        ...

    def residual(self, x: Tensor, outputs: Tensor) -> Tensor:
        """How far each pixel is from what was said of it, 0 or more: [n, h, w]."""
        ...

    def picture(self, outputs: Tensor) -> Tensor:
        """What the outputs look like: [n, 3, h, w], nominally in [-1, 1]."""
        ...


class GaussianObservation(nn.Module):
    """Log N(x; x_hat, sigma^2), sigma one number for all pixels and colours."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n 3 h w"], *, average: Average) -> None:
        """Start at the variance of all workers' images: a decoder that draws their mean colour has it."""
        variance = (x - x.mean((0, 2, 3), keepdim=True)).square().mean().clamp_min(1e-6)
        average([variance])
        self.log_variance.copy_(variance.log())

    def variance(self) -> Float[Tensor, ""]:
        """sigma^2, of images in [-1, 1]."""
        return self.log_variance.clamp_min(LEAST).exp()

    def forward(self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
        """Log density at each pixel, in nats, summed over colours: its sum over pixels is log p(x | z)."""
        log_variance = self.log_variance.clamp_min(LEAST)
        each = -0.5 * (math.log(2 * math.pi) + log_variance + (x - x_hat).square() * (-log_variance).exp())
        return each.sum(1)

    def residual(self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
        """Mean |x - x_hat| over colours: the reconstruction error of Zimmerer et al. 2019."""
        return (x - x_hat).abs().mean(1)

    def picture(self, x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The mean of x given z, which is what the decoder says."""
        return x_hat
