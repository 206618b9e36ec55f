"""Losses of generative adversarial networks as pure functions, named as in their papers."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


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
