"""DCGAN in training: losses fall, each step moves only what it may, and nothing waits for a device."""

import math

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors.trainee import alone
from uadray.errors import InputError
from uadray.generators import dcgan
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=8, learning_rate=2e-3)


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def _trainee(config: dcgan.Config = GAN, networks: Networks | None = None) -> dcgan.Trainee:
    return dcgan.Trainee(config, networks or dcgan.networks(config, pretrained=False), average=alone)


def test_an_undecided_discriminator_loses_twice_log_two(x: Tensor) -> None:
    trainee = _trainee()
    torch.nn.init.zeros_(trainee.discriminator.get_submodule("logit").weight)
    assert trainee.discriminator_step(x)["discriminator"].item() == pytest.approx(2 * math.log(2))
    torch.nn.init.zeros_(trainee.discriminator.get_submodule("logit").weight)
    assert trainee.generator_step(4, x.device)["generator"].item() == pytest.approx(math.log(2))


def test_the_discriminator_learns_to_tell(x: Tensor) -> None:
    trainee = _trainee()
    steps = [trainee.discriminator_step(x) for _ in range(30)]
    assert steps[-1]["discriminator"] < steps[0]["discriminator"] / 2
    assert steps[-1]["discriminator_accuracy"] == 1.0


def test_the_generator_learns_to_please_the_discriminator(x: Tensor) -> None:
    trainee = _trainee()
    for _ in range(5):
        trainee.discriminator_step(x)
    losses = [trainee.generator_step(16, x.device)["generator"] for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


def test_each_step_moves_the_weights_of_one(x: Tensor) -> None:
    networks = dcgan.networks(GAN, pretrained=False)
    trainee = _trainee(GAN, networks)
    weights = {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
    trainee.discriminator_step(x)
    same = {n: all(map(torch.equal, network.parameters(), weights[n])) for n, network in networks.items()}
    assert same == {"generator": True, "discriminator": False}
    before = state_of(networks)
    trainee.generator_step(4, x.device)
    assert "generator" in moved(networks, before)
    parameters = {key for key, _ in networks["discriminator"].named_parameters()}
    assert all(torch.equal(networks["discriminator"].state_dict()[k], before["discriminator"][k]) for k in parameters)
    assert all(p.requires_grad for p in networks["discriminator"].parameters())


def test_a_step_gives_tensors_without_a_graph(x: Tensor) -> None:
    losses = _trainee().step(x, 0.0)
    assert set(losses) == {"discriminator", "discriminator_accuracy", "generator"}
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in losses.values())


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_add_up(x: Tensor, parts: int) -> None:
    """With batch normalisation by its running statistics, which ties no tile to another: the gradients are the same."""
    networks = dcgan.networks(GAN, pretrained=False)
    for network in networks.values():
        network.eval()
    before = state_of(networks)
    z = torch.rand(len(x), 8) * 2 - 1
    found: list[list[Tensor]] = []
    for accumulate in (1, parts):
        networks["generator"].load_state_dict(before["generator"])
        trainee = dcgan.Trainee(
            GAN.model_copy(update={"accumulate": accumulate}), networks,
            average=lambda gradients: found.append([g.clone() for g in gradients]),
        )  # fmt: skip
        trainee._latents = lambda n, device: z  # type: ignore[method-assign]
        trainee.generator_step(len(x), x.device)
    whole, added = found
    assert sum(g.abs().sum() for g in whole) > 0
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(whole, added, strict=True))


def test_a_tile_alone_is_refused(x: Tensor) -> None:
    with pytest.raises(InputError, match="accumulate 7 leaves one of 7 tiles alone"):
        _trainee(GAN.model_copy(update={"accumulate": 7})).step(x[:7], 0.0)


@pytest.mark.parametrize(("prior", "bound", "deviation"), [("uniform", 1.0, 1 / math.sqrt(3)), ("normal", 9.0, 1.0)])
def test_latents_are_of_the_prior(prior: str, bound: float, deviation: float) -> None:
    config = dcgan.Config.model_validate({"kind": "dcgan", "prior": prior})
    for z in (
        dcgan.latents(config, 500, rng=torch.Generator().manual_seed(0)),
        _trainee(config.model_copy(update={"input_px": 16, "width": 4}))._latents(500, torch.device("cpu")),
    ):
        assert z.shape == (500, 100)
        assert z.abs().max() <= bound
        assert z.std().item() == pytest.approx(deviation, rel=0.02)
        assert abs(z.mean().item()) < 0.02


@pytest.mark.parametrize("side_px", [8, 17, 48, 1024])
def test_sides_that_it_has_not_are_refused(side_px: int) -> None:
    with pytest.raises(ValidationError):
        dcgan.Config(kind="dcgan", input_px=side_px)
