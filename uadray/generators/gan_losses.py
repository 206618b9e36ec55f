"""Losses of generative adversarial networks as pure functions, named as in their papers."""

import math
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
    critic: Callable[[Tensor], Tensor], real: Float[Tensor, "n ..."], fake: Float[Tensor, "n ..."],
    epsilon: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:  # fmt: skip
    """E[(||grad D(x~)||_2 - 1)^2] at random points between real and fake (Gulrajani et al. 2017, eq. 3).

    Args:
        critic: of images, or of vectors.
        real: images [N, 3, h, w], or vectors.
        fake: as many.
        epsilon: where on the way from fake (0) to real (1); drawn unless given.
    """
    epsilon = torch.rand(len(real), device=real.device) if epsilon is None else epsilon
    epsilon = epsilon.view(-1, *[1] * (real.ndim - 1))
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


def path_lengths(w: Float[Tensor, "n styles dim"], pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """||J_w^T y||_2 of each picture, y ~ N(0, I) (Karras et al. 2020, section 3.2, equation 4).

    Over the root of the number of numbers of a channel, as a root mean square over the layers' w: the paper's weight
    ln 2 / (r^2 (ln r - ln 2)) is 2 then, whatever the side r (there are 2 log2 r - 2 layers).

    Args:
        w: whose graph leads to the pictures.
        pictures: drawn from it.
    """
    y = torch.randn_like(pictures) / math.sqrt(pictures.shape[2] * pictures.shape[3])
    (gradient,) = torch.autograd.grad((pictures * y).sum(), w, create_graph=True)
    lengths: Tensor = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    return lengths


def path_length_penalty(lengths: Float[Tensor, " n"], mean: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """E[(||J_w^T y||_2 - a)^2], a the mean over the training (Karras et al. 2020, equation 4)."""
    return (lengths - mean).square().mean()
