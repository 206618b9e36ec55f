"""Losses of generative adversarial networks as pure functions, named as in their papers."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def critic_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Wasserstein critic: E[D(x_fake)] - E[D(x_real)] (Gulrajani et al. 2017, eq. 3, without the penalty)."""
    return fake.mean() - real.mean()


def generator_loss(fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Wasserstein generator: -E[D(G(z))]."""
    return -fake.mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Float[Tensor, "n ..."], fake: Float[Tensor, "n ..."]
) -> Float[Tensor, ""]:
    """E[(||grad D(x~)||_2 - 1)^2] at random points between real and fake (Gulrajani et al. 2017, eq. 3).

    Args:
        critic: of images, or of vectors.
        real: images [N, 3, h, w], or vectors.
        fake: as many.
    """
    epsilon = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def drift(real: Float[Tensor, " n"], *, epsilon: float = 0.001) -> Float[Tensor, ""]:
    """Epsilon E[D(x_real)^2]: keeps scores from drifting away (Karras et al. 2018, appendix A.1)."""
    return epsilon * real.square().mean()


def logistic_discriminator_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-E[log s(D(x_real))] - E[log(1 - s(D(x_fake)))], s the logistic function (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def logistic_generator_loss(fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Non-saturating: -E[log s(D(G(z)))] (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def r1_penalty(scores: Float[Tensor, " n"], real: Float[Tensor, "n ..."], *, gamma: float) -> Float[Tensor, ""]:
    """Gamma / 2 E[||grad D(x_real)||^2] (Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, eq. 9).

    Args:
        scores: D(real), whose graph is still there.
        real: images that required gradients when they were scored.
        gamma: weight (StyleGAN: 10).
    """
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    penalty: Tensor = gamma / 2 * gradient.square().flatten(1).sum(dim=1).mean()
    return penalty
