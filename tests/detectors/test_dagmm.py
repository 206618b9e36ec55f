"""DAGMM: its mixture and energy against naive ones, its objective, and what is fitted at the end."""

import copy
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from uadray.detectors import dagmm
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.dagmm import Trainee, with_distances
from uadray.detectors.likelihood.soft_mixture import (
    LEAST_VARIANCE,
    SoftMixture,
    mixture_of,
    mixture_sums,
    sample_energy,
    singularity_penalty,
)
from uadray.detectors.pixels import to_pixels
from uadray.detectors.trainee import UnsuitableTilesError

pytestmark = pytest.mark.usefixtures("torch_alone")

DAGMM = dagmm.Config(kind="dagmm", input_px=16, width=4, latent_dim=2, gaussians=2, learning_rate=1e-3)


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: dagmm.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


def samples(n: int = 40, *, d: int = 3, k: int = 2) -> tuple[Tensor, Tensor]:
    """Of two groups, with soft memberships."""
    z = torch.randn(n, d) * torch.tensor([0.02, 1.0, 3.0]) + torch.arange(n)[:, None] % 2
    return z, torch.randn(n, k).softmax(1)


@pytest.mark.parametrize("values", [{"input_px": 48}, {"latent_dim": 0}, {"gaussians": 1000}, {"fit_fraction": 0}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        dagmm.Config.model_validate({"kind": "dagmm"} | values)


def test_the_mixture_is_that_of_the_memberships() -> None:
    """Equation 5, one sample after the other."""
    z, gamma = samples()
    phi, mean, covariance = mixture_of(mixture_sums(z, gamma))
    for k in range(2):
        weight = float(sum(gamma[:, k]))
        torch.testing.assert_close(float(phi[k]), weight / 40, rtol=1e-5, atol=0)
        mu = sum(g * row for g, row in zip(gamma[:, k], z, strict=True)) / weight
        sigma = sum(g * torch.outer(row - mu, row - mu) for g, row in zip(gamma[:, k], z, strict=True)) / weight
        torch.testing.assert_close(mean[k].float(), mu, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(covariance[k].float(), sigma, rtol=1e-4, atol=1e-5)


def test_the_energy_is_minus_the_log_density() -> None:
    """Against densities of another library."""
    z, gamma = samples()
    parameters = mixture_of(mixture_sums(z, gamma))
    phi, mean, covariance = (t.numpy() for t in parameters)
    floor = LEAST_VARIANCE * np.eye(3)
    densities = [
        p * multivariate_normal(m, c + floor).pdf(z.numpy()) for p, m, c in zip(phi, mean, covariance, strict=True)
    ]
    np.testing.assert_allclose(sample_energy(z, parameters).numpy(), -np.log(np.sum(densities, 0)), rtol=1e-6)


def test_an_improbable_sample_has_a_finite_energy() -> None:
    """Its densities are 0 in float64."""
    z, gamma = samples()
    energy = sample_energy(torch.full((1, 3), 1e3), mixture_of(mixture_sums(z, gamma)))
    assert 1e6 < float(energy) < 1e12


def test_a_component_that_nothing_belongs_to_changes_nothing() -> None:
    z, gamma = samples()
    without = mixture_of(mixture_sums(z, gamma))
    with_empty = mixture_of(mixture_sums(z, torch.cat([gamma, torch.zeros(40, 1)], 1)))
    torch.testing.assert_close(sample_energy(z, with_empty), sample_energy(z, without))


def test_the_energys_gradient_is_that_of_finite_differences() -> None:
    """To samples and memberships, through all that follows from them."""
    z, gamma = samples(6, d=3)
    z, gamma = z.double().requires_grad_(), gamma.double().requires_grad_()

    def mean_energy(z: Tensor, gamma: Tensor) -> Tensor:
        return sample_energy(z, mixture_of(mixture_sums(z, gamma))).mean()

    assert torch.autograd.gradcheck(mean_energy, (z, gamma), eps=1e-6, atol=1e-4)


def test_the_penalty_is_the_sum_of_inverse_variances() -> None:
    covariance = torch.tensor([[[0.5, 0.3], [0.3, 0.25]], [[2.0, -1.0], [-1.0, 4.0]]], dtype=torch.float64)
    torch.testing.assert_close(float(singularity_penalty(covariance)), 2 + 4 + 0.5 + 0.25, rtol=1e-5, atol=0)


def test_the_distances_are_those_of_vectors(x: Tensor) -> None:
    other = x.roll(1, 0)
    z = with_distances(torch.zeros(8, 2), x, other).float()
    for row, a, b in zip(z, x, other, strict=True):
        a, b = a.flatten(), b.flatten()
        expected = [0, 0, float((a - b).norm() / a.norm()), float(a @ b / (a.norm() * b.norm()))]
        torch.testing.assert_close(row, torch.tensor(expected))
    torch.testing.assert_close(
        with_distances(torch.zeros(8, 2), x, x)[:, 2:].float(), torch.tensor([[0.0, 1.0]]).repeat(8, 1)
    )
    assert with_distances(torch.zeros(8, 2), torch.zeros_like(x), x).isfinite().all()


def test_every_step_moves_what_it_may(x: Tensor) -> None:
    trainee = trainee_of(DAGMM)
    for name in ("phi", "mean", "covariance"):
        trainee.mixture.get_buffer(name).zero_()  # no numbers are not equal to themselves
    for progress, expected in ((0.0, {"encoder", "decoder", "estimation"}), (0.95, {"mixture"})):
        before = state_of(trainee.networks)
        trainee.step(x, progress)
        assert moved(trainee.networks, before) == expected


def test_the_step_descends_equation_7(x: Tensor) -> None:
    trainee = trainee_of(DAGMM)
    networks = copy.deepcopy(trainee.networks)
    torch.manual_seed(3)
    trainee.step(x, 0.0)
    torch.manual_seed(3)
    code = networks["encoder"](x)
    x_hat = networks["decoder"](code)
    z = with_distances(code, x, x_hat)
    phi, mean, covariance = mixture_of(mixture_sums(z, networks["estimation"].train()(z.float())))
    floor = LEAST_VARIANCE * torch.eye(4, dtype=torch.float64)
    normals = [torch.distributions.MultivariateNormal(m, c + floor) for m, c in zip(mean, covariance, strict=True)]
    density = sum(p * normal.log_prob(z.double()).exp() for p, normal in zip(phi, normals, strict=True))
    inverse = sum(1 / (c[j, j] + LEAST_VARIANCE) for c in covariance for j in range(4))
    error = sum((a - b).square().sum() for a, b in zip(x, x_hat, strict=True)) / 8
    (error - 0.1 * density.log().mean() + 0.005 * inverse).backward()
    for name in ("encoder", "decoder", "estimation"):
        for ours, expected in zip(trainee.networks[name].parameters(), networks[name].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-5)


def test_it_learns(x: Tensor) -> None:
    trainee = trainee_of(DAGMM)
    lines = [trainee.step(x, 0.0) for _ in range(60)]
    assert float(lines[-1]["squared_error"]) < 0.8 * float(lines[0]["squared_error"])
    energies = [float(line["energy"]) for line in lines]
    assert sum(energies[-10:]) < sum(energies[:10])


def test_two_workers_fit_the_mixture_of_one(x: Tensor) -> None:
    """Each worker sees half of the tiles; the sums of both are averaged."""
    z, gamma = samples()
    both = [mixture_sums(z[part], gamma[part]) for part in (slice(0, 15), slice(15, 40))]
    together, alone = SoftMixture(2, 3), SoftMixture(2, 3)
    together.add([torch.stack(pair).mean(0) for pair in zip(*both, strict=True)])
    alone.add(mixture_sums(z, gamma))
    for mixture in (together, alone):
        mixture.fit()
    torch.testing.assert_close(together(z), alone(z))


def test_all_that_is_fitted_is_averaged(x: Tensor) -> None:
    asked: list[int] = []

    def average(tensors: Iterable[Tensor]) -> None:
        asked.append(sum(t.numel() for t in tensors))

    trainee = build_trainee(DAGMM, build_networks(DAGMM), average=average)
    learned = sum(p.numel() for n in ("encoder", "decoder", "estimation") for p in trainee.networks[n].parameters())
    for progress in (0.0, 0.95):
        trainee.step(x, progress)
    assert asked == [learned, 1 + 2 + 2 * 4 + 2 * 16]


def test_the_fit_is_that_of_the_tiles_as_they_are_scored(x: Tensor) -> None:
    """In two steps, without dropout; and the score is the energy under it."""
    trainee = trainee_of(DAGMM)
    trainee.step(x, 0.0)
    for part in (x[:5], x[5:]):
        trainee.step(part, 0.95)
    trainee.finish()
    detector = build_detector(DAGMM, trainee.networks)
    pixels = to_pixels(x)
    (seen,) = detector.inputs(pixels)
    with torch.no_grad():
        networks = trainee.networks
        z = with_distances(networks["encoder"](x), x, networks["decoder"](networks["encoder"](x)))
        parameters = mixture_of(mixture_sums(z, networks["estimation"].eval()(z.float())))
        z_seen = with_distances(networks["encoder"](seen), seen, networks["decoder"](networks["encoder"](seen)))
    scored = detector(pixels)
    np.testing.assert_allclose(scored.score, sample_energy(z_seen, parameters).numpy(), rtol=1e-3, atol=1e-3)
    x_hat = networks["decoder"](networks["encoder"](seen)).detach()
    np.testing.assert_allclose(scored.maps([2])[0], ((seen - x_hat)[2] ** 2).mean(0).numpy(), rtol=1e-3, atol=1e-5)


def test_without_a_fit_there_is_no_detector(x: Tensor) -> None:
    trainee = trainee_of(DAGMM)
    trainee.step(x, 0.0)
    with pytest.raises(UnsuitableTilesError, match="more steps"):
        trainee.finish()


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(DAGMM, build_networks(DAGMM) | {"mixture": nn.Identity()})
