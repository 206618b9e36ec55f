"""The VAE: its loss, what a step moves, what it learns, and what its scores and pictures are."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from lockstep import means_over
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import vae
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.likelihood.categories import CategoricalObservation
from uadray.detectors.pixels import to_pixels
from uadray.detectors.vae import Trainee
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

VAE = vae.Config(kind="vae", input_px=16, width=4, latent_dim=5, learning_rate=1e-2)
CLASSES = VAE.model_copy(update={"reconstruction": "categorical", "colours": 4})


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: vae.Config, x: Tensor) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    trainee.prepare(x)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 48}, {"score": "importance"}, {"colours": 1}, {"map": "kl"}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        vae.Config.model_validate({"kind": "vae"} | values)


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_the_loss_is_minus_the_bound(x: Tensor, beta: float) -> None:
    """The step's gradients against those of the loss written out."""
    trainee = trainee_of(VAE.model_copy(update={"beta": beta}), x)
    networks = copy.deepcopy(trainee.networks)
    torch.manual_seed(3)
    told = trainee.step(x, 0.0)
    torch.manual_seed(3)
    noise = torch.randn(len(x), 5)
    mean, log_variance = networks["encoder"](x).split(5, 1)
    x_hat = networks["decoder"](mean + torch.exp(log_variance / 2) * noise)
    variance = dict(networks["observation"].named_parameters())["log_variance"].exp()
    squares = (x - x_hat).square().sum((1, 2, 3))
    nats = 3 * 256 / 2 * torch.log(2 * math.pi * variance) + squares / (2 * variance)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    ((nats + beta * kl).mean() / 256).backward()
    torch.testing.assert_close(torch.as_tensor(told["reconstruction"]), nats.mean().detach() / 256)
    torch.testing.assert_close(torch.as_tensor(told["kl"]), kl.mean().detach() / 256)
    for name, network in trainee.networks.items():
        for ours, expected in zip(network.parameters(), networks[name].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", [VAE, CLASSES], ids=["intensity", "categorical"])
def test_it_learns_to_repeat(x: Tensor, config: vae.Config) -> None:
    trainee = trainee_of(config, x)
    before = state_of(trainee.networks)
    values = [float(trainee.step(x, i / 100)["reconstruction"]) for i in range(100)]
    assert moved(trainee.networks, before) == {"encoder", "decoder"} | ({"observation"} if config is VAE else set())
    assert values[-1] < values[0] - 0.3
    picture = trainee.reconstruct(x)
    plain = x.mean(0, keepdim=True).expand_as(x)
    assert (picture - x).square().mean() < (0.6 if config is VAE else 0.9) * (plain - x).square().mean()


def test_classes_are_fitted_before_the_first_step_and_stay(x: Tensor) -> None:
    trainee = trainee_of(CLASSES, x)
    observation = trainee.networks["observation"]
    assert isinstance(observation, CategoricalObservation)
    centres = observation.centres.clone()
    assert centres.unique(dim=0).shape == (4, 2)
    trainee.step(x, 0.0)
    assert torch.equal(observation.centres, centres)


def test_two_workers_have_the_same_classes_and_weights(x: Tensor) -> None:
    """Of other tiles each: classes are those of all pixels, and gradients are averaged."""
    torch.manual_seed(0)
    start = build_networks(CLASSES)
    means = means_over(2)

    def networks_of(rank: int) -> Networks:
        networks = copy.deepcopy(start)
        trainee = build_trainee(CLASSES, networks, average=means(rank))
        trainee.prepare(x[4 * rank : 4 * rank + 4])
        for _ in range(2):
            trainee.step(x[4 * rank : 4 * rank + 4], 0.0)
        return networks

    with ThreadPoolExecutor(2) as workers:
        one, other = workers.map(networks_of, range(2))
    for name, network in one.items():
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, other[name].state_dict()[key], rtol=0, atol=0)
    alone = trainee_of(CLASSES, x).networks["observation"].state_dict()
    for key, value in one["observation"].state_dict().items():
        torch.testing.assert_close(value, alone[key])


def test_what_is_unlike_the_training_is_less_probable() -> None:
    """Normal tiles have one colour each; one tile has lines."""
    torch.manual_seed(1)
    x = (torch.rand(16, 3, 1, 1) - 0.5).expand(-1, -1, 16, 16).contiguous()
    trainee = trainee_of(VAE, x)
    for step in range(80):
        trainee.step(x, step / 80)
    odd = x[:1].clone()
    odd[..., ::4, :] += 0.8
    odd[..., :, ::4] -= 0.8
    pixels = to_pixels(torch.cat([x, odd.clamp(-1, 1)]))
    for score in ("reconstruction", "elbo", "importance"):
        config = VAE.model_copy(update={"score": score, "draws": 8})
        scored = build_detector(config, trainee.networks)(pixels)
        assert scored.score[-1] > scored.score[:-1].max(), score


def test_a_score_does_not_depend_on_the_batch(x: Tensor) -> None:
    config = VAE.model_copy(update={"score": "importance", "draws": 4, "map": "elbo_gradient", "gradient_draws": 2})
    networks = trainee_of(config, x).networks
    pixels = to_pixels(x)
    whole = build_detector(config, networks, batch_tiles=8)(pixels)
    alone = build_detector(config, networks, batch_tiles=1)(pixels[::-1].copy())
    np.testing.assert_allclose(whole.score, alone.score[::-1], rtol=1e-5)
    np.testing.assert_allclose(whole.maps(range(8)), alone.maps(range(8))[::-1], rtol=1e-4, atol=1e-6)


def test_pictures_are_what_the_trainee_shows(x: Tensor) -> None:
    for config in (VAE, CLASSES):
        trainee = trainee_of(config, x)
        pixels = to_pixels(x)
        detector = build_detector(config, trainee.networks)
        (seen,) = detector.inputs(pixels)
        shown = detector.pictures(pixels)[1]
        assert shown is not None
        np.testing.assert_array_equal(shown, to_pixels(trainee.reconstruct(seen).detach()))
