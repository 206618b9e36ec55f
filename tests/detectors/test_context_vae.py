"""The context-encoding VAE: its loss, what a step moves, that it fills in, and its score and map."""

import copy
import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import context_vae
from uadray.detectors.autoencoding.adversary import Adversarial
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.context_vae import Trainee
from uadray.detectors.likelihood.masking import masked
from uadray.detectors.pixels import to_pixels

pytestmark = pytest.mark.usefixtures("torch_alone")

CONTEXT = context_vae.Config(kind="context_vae", input_px=16, width=4, latent_dim=5, learning_rate=1e-2)
JUDGED = CONTEXT.model_copy(update={"adversarial": Adversarial(weight=0.5, critic_steps=1)})


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: context_vae.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 48}, {"score": "importance"}, {"most_squares": 0}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        context_vae.Config.model_validate({"kind": "context_vae"} | values)


@pytest.mark.parametrize("config", [CONTEXT, JUDGED], ids=["plain", "adversarial"])
def test_the_loss_is_the_papers(x: Tensor, config: context_vae.Config) -> None:
    """Gradients of the step against those of the loss written out, the critic as its own step has left it."""
    trainee = trainee_of(config)
    networks = copy.deepcopy(trainee.networks)
    torch.manual_seed(3)
    told = trainee.step(x, 0.0)
    torch.manual_seed(3)
    noise, painted = torch.randn(len(x), 5), masked(x, most_squares=3, largest_share=0.5)
    mean, log_variance = networks["encoder"](x).split(5, 1)
    variance = dict(networks["observation"].named_parameters())["log_variance"].exp()

    def nats(x_hat: Tensor) -> Tensor:
        squares = (x - x_hat).square().sum((1, 2, 3))
        return (3 * 256 / 2 * torch.log(2 * math.pi * variance) + squares / (2 * variance)).mean() / 256

    reconstruction = nats(networks["decoder"](mean + torch.exp(log_variance / 2) * noise))
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 256
    filled = networks["decoder"](networks["encoder"](painted)[:, :5])
    loss = reconstruction + kl + nats(filled)
    if config is JUDGED:
        loss = loss - 0.5 * trainee.networks["critic"](filled).mean()
    loss.backward()
    torch.testing.assert_close(torch.as_tensor(told["context"]), nats(filled).detach())
    for name in ("encoder", "decoder", "observation"):
        for ours, expected in zip(trainee.networks[name].parameters(), networks[name].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-5)


def test_a_step_moves_the_critic_where_there_is_one(x: Tensor) -> None:
    for config, critic in ((CONTEXT, set[str]()), (JUDGED, {"critic"})):
        trainee = trainee_of(config)
        before = state_of(trainee.networks)
        trainee.step(x, 0.0)
        assert moved(trainee.networks, before) == {"encoder", "decoder", "observation"} | critic
        assert set(trainee.optimizers) == {"vae"} | critic


def test_averaging_is_asked_for_before_every_step(x: Tensor) -> None:
    """Zeroed gradients stand for workers that cancel out: nothing may move."""

    def cancel(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.zero_()

    networks = build_networks(JUDGED)
    before = state_of(networks)
    build_trainee(JUDGED, networks, average=cancel).step(x, 0.0)
    assert moved(networks, before) == set()


def test_it_learns_to_fill_in(x: Tensor) -> None:
    """Better than a VAE that has never seen a square."""
    errors = []
    for weight in (1.0, 0.0):
        trainee = trainee_of(CONTEXT.model_copy(update={"context_weight": weight}))
        for step in range(100):
            trainee.step(x, step / 100)
        torch.manual_seed(7)
        painted = masked(x, most_squares=3, largest_share=0.5)
        with torch.no_grad():
            errors.append(float((trainee.reconstruct(painted) - x).square().mean()))
    assert errors[0] < 0.8 * errors[1]


def test_the_papers_score_is_the_bound_and_its_map_error_times_gradient_of_kl(x: Tensor) -> None:
    trainee = trainee_of(CONTEXT)
    for step in range(3):
        trainee.step(x, step / 3)
    detector = build_detector(CONTEXT.model_copy(update={"blur_px": 0.0}), trainee.networks)
    pixels = to_pixels(x)
    scored = detector(pixels)
    (seen,) = detector.inputs(pixels)
    networks = {name: copy.deepcopy(network).requires_grad_(False) for name, network in trainee.networks.items()}
    seen = seen.clone().requires_grad_()
    mean, log_variance = networks["encoder"](seen).split(5, 1)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    (slope,) = torch.autograd.grad(kl.sum(), seen)
    x_hat = networks["decoder"](mean)
    variance = dict(networks["observation"].named_parameters())["log_variance"].exp()
    nats = 3 * 256 / 2 * torch.log(2 * math.pi * variance) + (seen - x_hat).square().sum((1, 2, 3)) / (2 * variance)
    np.testing.assert_allclose(scored.score, ((nats + kl) / 256).detach().numpy(), rtol=1e-5)
    expected = (seen - x_hat).abs().mean(1) * slope.abs().mean(1)
    np.testing.assert_allclose(scored.maps(range(8)), expected.detach().numpy(), rtol=1e-4, atol=1e-7)
