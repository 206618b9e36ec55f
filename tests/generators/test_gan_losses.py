"""Losses of GANs by hand."""

import math

import pytest
import torch
from torch import Tensor

from uadray.generators.gan_losses import (
    critic_loss,
    drift,
    generator_loss,
    gradient_penalty,
    logistic_discriminator_loss,
    logistic_generator_loss,
    r1_penalty,
)
from uadray.networks.wgan_gp import Critic


def test_wasserstein_by_hand() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 2.0])
    assert critic_loss(real, fake).item() == -1.5  # 0.5 - 2
    assert generator_loss(fake).item() == -0.5


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 0.0), (3.0, 4.0), (0.0, 1.0), (0.25, 0.5625)])
def test_gradient_penalty_of_a_linear_critic(slope: float, expected: float) -> None:
    """D(x) = w . x has the gradient w everywhere; with ||w|| = slope the penalty is (slope - 1)^2."""
    w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    w = slope * w / w.norm()

    def critic(x: Tensor) -> Tensor:
        return (x * w).flatten(1).sum(1)

    penalty = gradient_penalty(critic, torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4))
    assert penalty.item() == pytest.approx(expected, abs=1e-5)


def test_gradient_penalty_against_finite_differences() -> None:
    """Of a critic with layer normalisation: its slope along every pixel, by differences of its values."""
    torch.manual_seed(0)
    critic = Critic(width=4, input_px=16).double()
    real, fake = torch.rand(2, 2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    epsilon = torch.tensor([0.3, 0.8], dtype=torch.float64)
    with torch.no_grad():
        step, slopes = 1e-5, []
        for at in epsilon.view(-1, 1, 1, 1) * real + (1 - epsilon.view(-1, 1, 1, 1)) * fake:
            moves = step * torch.eye(at.numel(), dtype=torch.float64).view(-1, *at.shape)
            slopes.append((critic(at + moves) - critic(at - moves)) / (2 * step))
        expected = ((torch.stack(slopes).norm(dim=1) - 1) ** 2).mean()
    assert gradient_penalty(critic, real, fake, epsilon).item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradient_penalty_looks_between_real_and_fake() -> None:
    """D(x) = |x|^2 / 2 has the gradient x: from 0 to a point at distance 2, the norm is 2 * epsilon."""
    torch.manual_seed(0)
    real = torch.zeros(4000, 3, 1, 1)
    fake = torch.full((4000, 3, 1, 1), 2 / math.sqrt(3))
    penalty = gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, real, fake)
    assert penalty.item() == pytest.approx(1 / 3, abs=0.03)  # the integral of (2e - 1)^2 over [0, 1]


def test_gradient_penalty_trains_the_critic_and_nothing_else() -> None:
    w = torch.full((3, 2, 2), 2.0, requires_grad=True)
    real, fake = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    gradient_penalty(lambda x: (x * w).flatten(1).sum(1), real, fake).backward()
    assert w.grad is not None
    assert w.grad.abs().sum() > 0
    assert real.grad is None
    assert fake.grad is None


def test_logistic_losses_by_hand() -> None:
    """In the words of the first paper: logarithms of probabilities."""
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])

    def s(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    expected = -(math.log(s(2)) + math.log(s(-1))) / 2 - (math.log(1 - s(0.5)) + math.log(1 - s(-3))) / 2
    assert logistic_discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert logistic_generator_loss(fake).item() == pytest.approx(-(math.log(s(0.5)) + math.log(s(-3))) / 2)
    assert logistic_generator_loss(torch.tensor([-200.0])).item() == 200  # no overflow where all is told


def test_drift_by_hand() -> None:
    assert drift(torch.tensor([1.0, -3.0]), epsilon=0.001).item() == pytest.approx(0.005)


def test_r1_against_finite_differences() -> None:
    """A discriminator of two layers; each of the 24 values of each image is moved by itself."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(24, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()
    x = torch.randn(3, 24, dtype=torch.float64).requires_grad_()
    penalty = r1_penalty(network(x).squeeze(1), x, gamma=10.0)
    steps = 1e-5 * torch.eye(24, dtype=torch.float64)
    squares = [
        sum(((network(each + step) - network(each - step)).item() / 2e-5) ** 2 for step in steps) for each in x.detach()
    ]
    assert penalty.item() == pytest.approx(10.0 / 2 * sum(squares) / 3, rel=1e-6)
    penalty.backward()
    weight, eps = network[0].weight, 1e-5
    assert weight.grad is not None
    found = weight.grad[2, 5].item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[2, 5] += sign * eps
        y = x.detach().requires_grad_()
        values.append(r1_penalty(network(y).squeeze(1), y, gamma=10.0).item())
        with torch.no_grad():
            weight[2, 5] -= sign * eps
    assert found == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-5)
