"""Gradient maps: against finite differences, from within inference mode, and what smoothing does."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from uadray.detectors.likelihood.bound_scores import BoundScore
from uadray.detectors.likelihood.input_gradients import (
    MapKind,
    fixed_pictures,
    gradient,
    gradient_map,
    value_of,
)
from uadray.detectors.likelihood.vae_part import posterior, vae_networks
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

KINDS: tuple[MapKind, ...] = ("kl_gradient", "reconstruction_gradient", "elbo_gradient")


@pytest.fixture
def networks() -> Networks:
    torch.manual_seed(0)
    return {name: n.double() for name, n in vae_networks(width=4, input_px=16, latent_dim=3).items()}


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.rand(2, 3, 16, 16, dtype=torch.float64) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(networks: Networks, x: Tensor, kind: MapKind) -> None:
    value = value_of(kind, networks, latent_dim=3)
    found, step = gradient(value, x), 1e-6
    for place in ((0, 4, 7), (1, 0, 15), (2, 9, 3), (0, 15, 0)):
        moved = torch.zeros_like(x)
        moved[(slice(None), *place)] = step
        with torch.no_grad():
            expected = (value(x + moved) - value(x - moved)) / (2 * step)
        torch.testing.assert_close(found[(slice(None), *place)], expected, rtol=1e-4, atol=1e-7)


def test_both_parts_add_up(networks: Networks, x: Tensor) -> None:
    parts = {kind: gradient(value_of(kind, networks, latent_dim=3), x) for kind in KINDS}
    total = parts["kl_gradient"] + parts["reconstruction_gradient"]
    torch.testing.assert_close(parts["elbo_gradient"], total)
    assert (parts["kl_gradient"] - total).abs().max() > 1e-3


def test_within_inference_mode_it_is_the_same_and_nothing_of_it_stays(networks: Networks, x: Tensor) -> None:
    value = value_of("kl_gradient", networks, latent_dim=3)
    noise = fixed_pictures(0, 16, deviation=0.2).double()
    expected = gradient_map(value, x, noise=noise, blur_px=2.0)
    with torch.inference_mode():
        found = gradient_map(value, x.clone(), noise=noise, blur_px=2.0)
    torch.testing.assert_close(found, expected)
    assert all(p.grad is None for p in networks["encoder"].parameters())
    assert not found.requires_grad


def test_a_map_is_the_mean_over_noisy_copies_of_the_gradients_size(networks: Networks, x: Tensor) -> None:
    value = value_of("kl_gradient", networks, latent_dim=3)
    noise = fixed_pictures(3, 16, deviation=0.2).double()
    assert 0.15 < float(noise.std()) < 0.25
    assert torch.equal(noise, fixed_pictures(3, 16, deviation=0.2).double())
    expected = sum(gradient(value, x + added).abs().mean(1) for added in noise) / 3
    torch.testing.assert_close(gradient_map(value, x, noise=noise, blur_px=0.0), expected)


def test_the_combined_map_is_error_times_gradient(networks: Networks, x: Tensor) -> None:
    def made(kind: MapKind) -> Tensor:
        how = SimpleNamespace(
            score="combined", map=kind, draws=0, gradient_draws=0, gradient_noise=0.0, blur_px=1.5, latent_dim=3,
            input_px=16,
        )  # fmt: skip
        score, residual = BoundScore(networks, how)(x, None, posterior(networks["encoder"], x))
        scores.append(score)
        return residual

    scores = list[Tensor]()
    combined, error, slope = made("combined"), made("reconstruction_error"), made("kl_gradient")
    torch.testing.assert_close(combined, error * slope)
    assert all(torch.equal(score, scores[0]) for score in scores)  # whichever map is shown
    torch.testing.assert_close(scores[0], combined.mean((1, 2)))
