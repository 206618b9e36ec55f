"""Bounds of a linear-Gaussian VAE, whose likelihood is known: by quadrature over z, and in closed form."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from uadray.detectors.likelihood.bound_scores import BoundScore, ScoreKind
from uadray.detectors.likelihood.gaussians import importance_bound, kl_to_standard_normal
from uadray.detectors.likelihood.observation import GaussianObservation
from uadray.detectors.likelihood.vae_part import bound_of, draws_of, fixed_noise, posterior

pytestmark = pytest.mark.usefixtures("torch_alone")


class Flat(nn.Module):
    """Images of one pixel to mean and log variance: linear."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2 * latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out


class Image(nn.Module):
    """z to images of one pixel: linear."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(latent_dim, 3)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.layer(z)[..., None, None]
        return out


def linear_vae(latent_dim: int) -> dict[str, nn.Module]:
    torch.manual_seed(latent_dim)
    networks: dict[str, nn.Module] = {
        "encoder": Flat(latent_dim), "decoder": Image(latent_dim), "observation": GaussianObservation(),
    }  # fmt: skip
    observation = networks["observation"]
    assert isinstance(observation, GaussianObservation)
    observation.log_variance.data.fill_(-0.7)
    return {name: network.double() for name, network in networks.items()}


def by_quadrature(networks: dict[str, nn.Module], x: Tensor, latent_dim: int) -> Tensor:
    """Log p(x) = log of the integral of p(x | z) p(z), on a grid of z."""
    line = torch.linspace(-9, 9, 721, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * latent_dim).reshape(-1, latent_dim)
    step = float(line[1] - line[0])
    variance = math.exp(-0.7)
    mean = networks["decoder"](z).flatten(1)  # [grid, 3]
    squares = (x.flatten(1)[:, None] - mean).square().sum(2)
    log_joint = (
        -squares / (2 * variance) - 1.5 * math.log(2 * math.pi * variance)
        - z.square().sum(1) / 2 - latent_dim / 2 * math.log(2 * math.pi)
    )  # fmt: skip
    return torch.logsumexp(log_joint, 1) + latent_dim * math.log(step)


def true_posterior(networks: dict[str, nn.Module], x: Tensor, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Mean [n, d] and covariance [d, d] of p(z | x), by the rule for linear-Gaussian models."""
    layer = networks["decoder"].layer
    assert isinstance(layer, nn.Linear)
    w, b = layer.weight.detach(), layer.bias.detach()
    covariance = torch.linalg.inv(torch.eye(latent_dim).double() + w.T @ w / math.exp(-0.7))
    return (x.flatten(1) - b) @ w @ covariance / math.exp(-0.7), covariance


def kl_of(mean: Tensor, log_variance: Tensor, mean_p: Tensor, covariance_p: Tensor) -> Tensor:
    """KL(q || p) of normal distributions, q with independent coordinates."""
    return torch.stack([
        torch.distributions.kl_divergence(
            torch.distributions.MultivariateNormal(m, torch.diag(v.exp())),
            torch.distributions.MultivariateNormal(m_p, covariance_p),
        )
        for m, v, m_p in zip(mean, log_variance, mean_p, strict=True)
    ])  # fmt: skip


def sigma_points(latent_dim: int) -> Tensor:
    """Noise whose mean and covariance are those of the standard normal: means of squares over it are exact."""
    points = math.sqrt(latent_dim) * torch.eye(latent_dim, dtype=torch.float64)
    return torch.cat([points, -points])


def images(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_the_elbo_is_the_likelihood_less_the_divergence_from_the_posterior(latent_dim: int) -> None:
    networks, x = linear_vae(latent_dim), images()
    with torch.no_grad():
        mean, log_variance = posterior(networks["encoder"], x)
        drawn = draws_of(networks, x, mean, log_variance, sigma_points(latent_dim))
        elbo = drawn.log_likelihood.mean(0) - kl_to_standard_normal(mean, log_variance)
        expected = by_quadrature(networks, x, latent_dim)
        gap = kl_of(mean, log_variance, *true_posterior(networks, x, latent_dim))
    torch.testing.assert_close(elbo, expected - gap, rtol=1e-8, atol=1e-8)
    assert (gap > 0.05).all()


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_the_importance_bound_rises_to_the_likelihood(latent_dim: int) -> None:
    networks, x = linear_vae(latent_dim), images()
    with torch.no_grad():
        mean, log_variance = posterior(networks["encoder"], x)
        expected = by_quadrature(networks, x, latent_dim)
        noise = fixed_noise(1500, latent_dim).double()
        weights = draws_of(networks, x, mean, log_variance, noise).log_weight
    found = importance_bound(weights)
    spread = (weights - found).exp().std(0) / math.sqrt(len(noise))  # of the mean weight, relative
    assert ((found - expected).abs() < 4 * spread).all()
    assert (spread < 0.15).all()
    few = torch.stack([importance_bound(part) for part in weights.split(10)]).mean(0)
    one = weights.mean(0)
    assert (one < few).all()
    assert few.mean() < expected.mean()


def test_with_the_true_posterior_every_draw_has_the_likelihood_as_its_weight() -> None:
    networks, x = linear_vae(1), images()
    mean, covariance = true_posterior(networks, x, 1)
    log_variance = covariance.log().expand(len(x), 1)
    with torch.no_grad():
        weights = draws_of(networks, x, mean, log_variance, fixed_noise(7, 1).double()).log_weight
        expected = by_quadrature(networks, x, 1)
    torch.testing.assert_close(weights, expected.expand(7, -1), rtol=1e-8, atol=1e-8)


def test_one_draw_is_the_bound_of_training() -> None:
    networks, x = linear_vae(2), images()
    noise = fixed_noise(1, 2).double()
    with torch.no_grad():
        bound = bound_of(networks, x, noise.expand(len(x), 2))
        drawn = draws_of(networks, x, *posterior(networks["encoder"], x), noise)
    torch.testing.assert_close(drawn.log_likelihood[0], bound.log_likelihood.flatten(1).sum(1))
    torch.testing.assert_close(bound.elbo, drawn.log_likelihood[0] - bound.kl)


@pytest.mark.parametrize("score", ["reconstruction", "kl", "elbo", "importance"])
def test_scores_are_parts_of_the_bound_with_the_other_sign(score: ScoreKind) -> None:
    networks, x = linear_vae(2), images()
    how = SimpleNamespace(
        score=score, map="reconstruction_error", draws=5, gradient_draws=0, gradient_noise=0.0, blur_px=0.0,
        latent_dim=2, input_px=1,
    )  # fmt: skip
    with torch.no_grad():
        z = posterior(networks["encoder"], x)
        found, residual = BoundScore(networks, how)(x, None, z)
        drawn, kl = draws_of(networks, x, *z, fixed_noise(5, 2)), kl_to_standard_normal(*z)
        x_hat = networks["decoder"](z[0])
    expected = {
        "reconstruction": -drawn.log_likelihood.mean(0),
        "kl": kl,
        "elbo": kl - drawn.log_likelihood.mean(0),
        "importance": -drawn.log_weight.exp().mean(0).log(),
    }
    torch.testing.assert_close(found, expected[score])
    torch.testing.assert_close(residual, (x - x_hat).abs().mean(1))


def test_no_draws_take_the_mean_of_z_and_draws_are_always_the_same() -> None:
    assert torch.equal(fixed_noise(0, 4), torch.zeros(1, 4))
    assert torch.equal(fixed_noise(3, 4), fixed_noise(3, 4))
    pairs = itertools.combinations(fixed_noise(3, 4), 2)
    assert all(not torch.equal(a, b) for a, b in pairs)
