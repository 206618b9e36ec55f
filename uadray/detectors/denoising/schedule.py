"""How an image is diffused: shares of signal by time, the forward process and its posterior.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 2. Time 0 is the image, time T noise. alpha_bar [T + 1]
has the share of the signal's variance that is left at each time, alpha_bar[0] = 1.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

ScheduleKind = Literal["linear", "cosine"]

LINEAR = (1e-4, 0.02)
"""First and last beta of 1,000 steps (Ho et al. 2020, section 4)."""

OFFSET = 0.008
"""s of the cosine schedule: betas near time 0 are not too small (Nichol and Dhariwal 2021, section 3.2)."""

LARGEST = 0.999
"""Of betas (Nichol and Dhariwal 2021, section 3.2)."""


def betas_of(kind: ScheduleKind, steps: int) -> Float[Tensor, " steps"]:
    """The variances of single steps, in float64.

    Linear ones are scaled by 1000 / `steps`, so that as little signal is left at the end.
    """
    if kind == "linear":
        scale = 1000 / steps
        return torch.linspace(LINEAR[0] * scale, LINEAR[1] * scale, steps, dtype=torch.float64).clamp_max(LARGEST)
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    left = ((share + OFFSET) / (1 + OFFSET) * math.pi / 2).cos().square()  # f(t), eq. 17 there
    return (1 - left[1:] / left[:-1]).clamp_max(LARGEST)


def signal_shares(kind: ScheduleKind, steps: int) -> Float[Tensor, " times"]:
    """alpha_bar [`steps` + 1], in float64."""
    left = torch.cumprod(1 - betas_of(kind, steps), 0)
    return torch.cat([left.new_ones(1), left])


def noised(
    x: Float[Tensor, "n 3 h w"], noise: Float[Tensor, "#n 3 h w"], alpha_bar: Float[Tensor, " #n"]
) -> Float[Tensor, "n 3 h w"]:
    """x_t of images x_0, each at the time of its alpha_bar, without the steps between (eq. 4)."""
    signal, rest = _roots(alpha_bar)
    return signal * x + rest * noise


def image_of(
    x_t: Float[Tensor, "n 3 h w"], noise: Float[Tensor, "n 3 h w"], alpha_bar: Float[Tensor, " #n"]
) -> Float[Tensor, "n 3 h w"]:
    """x_0, given the noise that x_t has (eq. 4, solved)."""
    signal, rest = _roots(alpha_bar)
    return (x_t - rest * noise) / signal


def noise_of(
    x_t: Float[Tensor, "n 3 h w"], x: Float[Tensor, "n 3 h w"], alpha_bar: Float[Tensor, " #n"]
) -> Float[Tensor, "n 3 h w"]:
    """The noise that x_t has, given x_0; alpha_bar below 1."""
    signal, rest = _roots(alpha_bar)
    return (x_t - signal * x) / rest


def posterior(
    x_t: Float[Tensor, "n 3 h w"],
    x: Float[Tensor, "n 3 h w"],
    alpha_bar: Float[Tensor, " #n"],
    before: Float[Tensor, " #n"],
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "#n 1 1 1"]]:
    """Mean and variance of q(x_s | x_t, x_0) (eq. 6 and 7).

    Args:
        x_t: the image at the later time t.
        x: x_0.
        alpha_bar: at time t.
        before: at the earlier time s; one step before in the paper.
    """
    after, earlier = (a.view(-1, 1, 1, 1) for a in (alpha_bar, before))
    alpha = after / earlier
    beta = 1 - alpha
    mean = (earlier.sqrt() * beta * x + alpha.sqrt() * (1 - earlier) * x_t) / (1 - after)
    return mean, beta * (1 - earlier) / (1 - after)


def _roots(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of the shares of signal and noise, [n, 1, 1, 1] each."""
    share = alpha_bar.view(-1, 1, 1, 1)
    return share.sqrt(), (1 - share).sqrt()
