"""The forward process and its posterior, against what is known of Gaussians."""

import math

import pytest
import torch

from uadray.detectors.denoising.schedule import (
    ScheduleKind,
    betas_of,
    image_of,
    noise_of,
    noised,
    posterior,
    signal_shares,
)

pytestmark = pytest.mark.usefixtures("torch_alone")

KINDS: tuple[ScheduleKind, ...] = ("linear", "cosine")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 50, 1000])
def test_signal_falls_from_all_to_next_to_nothing(kind: ScheduleKind, steps: int) -> None:
    left = signal_shares(kind, steps)
    assert left.shape == (steps + 1,)
    assert left[0] == 1
    assert (left.diff() < 0).all()
    assert left[-1] < 5e-3


def test_the_linear_schedule_is_the_papers() -> None:
    betas = betas_of("linear", 1000)
    assert betas[0] == pytest.approx(1e-4)
    assert betas[-1] == pytest.approx(0.02)
    assert betas[499] == pytest.approx(1e-4 + 499 / 999 * (0.02 - 1e-4))


def test_the_cosine_schedule_is_the_papers() -> None:
    """Eq. 17 of Nichol and Dhariwal: alpha_bar is a squared cosine over its value at 0, where betas are not cut."""
    left = signal_shares("cosine", 1000)
    for t in (1, 250, 500, 900):
        f = math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
        assert float(left[t]) == pytest.approx(f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_the_forward_process(kind: ScheduleKind) -> None:
    """Mean sqrt(alpha_bar) x_0 and variance 1 - alpha_bar at every pixel, and no covariance between two."""
    left, x = signal_shares(kind, 100).float(), torch.tensor([0.8, -0.3, 0.1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    n = 40_000
    for t in (1, 30, 70):
        x_t = noised(x.expand(n, 3, 2, 2), torch.randn(n, 3, 2, 2), left[t].expand(n))
        deviation = (1 - left[t]).sqrt()
        torch.testing.assert_close(x_t.mean(0), left[t].sqrt() * x[0], rtol=0, atol=float(5 * deviation / n**0.5))
        covariance = torch.cov(x_t.flatten(1).T) / (1 - left[t])
        torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=0.035)


@pytest.mark.parametrize("kind", KINDS)
def test_single_steps_come_to_the_closed_form(kind: ScheduleKind) -> None:
    """q(x_t | x_{t-1}), t times, has the mean and the variance of q(x_t | x_0)."""
    betas, left, n = betas_of(kind, 20).float(), signal_shares(kind, 20).float(), 50_000
    x = torch.full((n,), 0.7)
    for t, beta in enumerate(betas[:15], 1):
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(n)
        spread = float((1 - left[t]).sqrt())
        assert float(x.mean()) == pytest.approx(0.7 * float(left[t].sqrt()), abs=5 * spread / n**0.5)
        assert float(x.var()) == pytest.approx(spread**2, rel=0.04)


def test_image_and_noise_are_told_from_each_other() -> None:
    left = signal_shares("cosine", 1000)[torch.tensor([1, 300, 900])].double()
    x, noise = torch.rand(3, 3, 4, 4).double() * 2 - 1, torch.randn(3, 3, 4, 4).double()
    x_t = noised(x, noise, left)
    torch.testing.assert_close(image_of(x_t, noise, left), x)
    torch.testing.assert_close(noise_of(x_t, x, left), noise)


@pytest.mark.parametrize(("later", "earlier"), [(50, 49), (80, 20), (1, 0)])
def test_the_posterior_is_bayes_rule(later: int, earlier: int) -> None:
    """Of Gaussians precisions add: q(x_s | x_0) times q(x_t | x_s), as a function of x_s."""
    left = signal_shares("linear", 100)
    a_t, a_s = float(left[later]), float(left[earlier])
    x, x_t = torch.rand(1, 3, 2, 2).double(), torch.randn(1, 3, 2, 2).double()
    mean, variance = posterior(x_t, x, left[later : later + 1], left[earlier : earlier + 1])
    if earlier == 0:
        torch.testing.assert_close(mean, x)
        assert not variance.any()
        return
    alpha = a_t / a_s
    precision = 1 / (1 - a_s) + alpha / (1 - alpha)
    expected = (math.sqrt(a_s) * x / (1 - a_s) + math.sqrt(alpha) * x_t / (1 - alpha)) / precision
    torch.testing.assert_close(mean, expected)
    assert float(variance) == pytest.approx(1 / precision)


def test_one_step_back_has_the_papers_coefficients() -> None:
    """Eq. 7 of Ho et al. with its own letters."""
    betas, left, t = betas_of("linear", 100), signal_shares("linear", 100), 40
    x, x_t = torch.rand(2, 3, 2, 2).double(), torch.randn(2, 3, 2, 2).double()
    mean, variance = posterior(x_t, x, left[t].expand(2), left[t - 1].expand(2))
    beta, alpha_bar, before = betas[t - 1], left[t], left[t - 1]
    expected = (before.sqrt() * beta * x + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - alpha_bar)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance.flatten(), ((1 - before) / (1 - alpha_bar) * beta).expand(2))
