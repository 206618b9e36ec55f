"""WGAN-GP in training: losses fall on a fixed batch, and each step moves only what it may."""

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors.trainee import alone
from uadray.generators import wgan_gp
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8, critic_steps=2, learning_rate=1e-3)


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def _trainee(config: wgan_gp.Config = GAN, networks: Networks | None = None) -> wgan_gp.Trainee:
    return wgan_gp.Trainee(config, networks or wgan_gp.networks(config, pretrained=False), average=alone)


def test_the_critic_learns_to_tell(x: Tensor) -> None:
    """Its estimate of the Wasserstein distance grows while the generator stands still."""
    trainee = _trainee(GAN.model_copy(update={"critic_steps": 1000}))
    distances = [trainee.step(x, 0.0)["wasserstein"] for _ in range(30)]
    assert sum(distances[-5:]) / 5 > sum(distances[:5]) / 5 + 0.1


def test_the_generator_learns_to_please_the_critic() -> None:
    trainee = _trainee()
    losses = [trainee.generator_step(16, torch.device("cpu"))["generator"] for _ in range(30)]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.05


def test_a_critic_step_moves_the_critic_alone(x: Tensor) -> None:
    networks = wgan_gp.networks(GAN, pretrained=False)
    trainee = _trainee(GAN, networks)
    weights = {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
    trainee.critic_step(x)
    same = {n: all(map(torch.equal, network.parameters(), weights[n])) for n, network in networks.items()}
    assert same == {"generator": True, "critic": False}
    assert all(p.grad is None for p in networks["generator"].parameters())


def test_a_generator_step_moves_the_generator_alone() -> None:
    networks = wgan_gp.networks(GAN, pretrained=False)
    trainee = _trainee(GAN, networks)
    before = state_of(networks)
    trainee.generator_step(4, torch.device("cpu"))
    assert moved(networks, before) == {"generator"}
    assert all(p.requires_grad for p in networks["critic"].parameters())


def test_the_generator_steps_every_critic_steps(x: Tensor) -> None:
    trainee = _trainee()
    assert [("generator" in trainee.step(x, 0.0)) for _ in range(6)] == [False, True, False, True, False, True]


def test_people_are_shown_the_same_latents_every_time(x: Tensor) -> None:
    """And the training's random numbers are left alone."""
    trainee = _trainee()
    state = torch.get_rng_state()
    first, second = trainee.reconstruct(x), trainee.reconstruct(x)
    assert torch.equal(first, second)
    assert first.shape == x.shape
    assert torch.equal(state, torch.get_rng_state())
    trainee.step(x, 0.0)
    trainee.step(x, 0.0)
    assert not torch.equal(trainee.reconstruct(x), first)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_batch_give_the_critic_the_gradient_of_the_whole(x: Tensor, parts: int) -> None:
    """It normalises by sample, so nothing is lost; and the losses are those of the whole batch."""
    networks = {name: network.double() for name, network in wgan_gp.networks(GAN, pretrained=False).items()}
    before = state_of(networks)
    found: list[tuple[list[Tensor], dict[str, Tensor]]] = []
    for accumulate in (None, parts):
        networks["critic"].load_state_dict(before["critic"])
        gradients: list[Tensor] = []
        config = GAN.model_copy(update={"accumulate": accumulate})
        trainee = wgan_gp.Trainee(
            config, networks, average=lambda each, kept=gradients: kept.extend(g.clone() for g in each)
        )
        z = torch.randn(len(x), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        trainee._latents = lambda n, device, z=z: z  # type: ignore[method-assign]
        torch.manual_seed(5)
        found.append((gradients, trainee.critic_step(x.double())))
    (whole, losses), (added, losses_in_parts) = found
    assert sum(g.abs().sum() for g in whole) > 0
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(whole, added, strict=True))
    for name, value in losses.items():
        assert value.item() == pytest.approx(losses_in_parts[name].item(), rel=1e-9)


def test_a_step_gives_tensors_without_a_graph(x: Tensor) -> None:
    trainee = _trainee()
    losses = trainee.step(x, 0.0) | trainee.step(x, 0.0)
    assert set(losses) == {"wasserstein", "gradient_penalty", "generator"}
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in losses.values())


def test_a_field_that_came_later_leaves_ids_alone() -> None:
    """Configurations written before it are these."""
    assert "accumulate" not in wgan_gp.Config(kind="wgan_gp").model_dump_json(exclude_none=True)


@pytest.mark.parametrize("side_px", [15, 17, 48, 96, 8])
def test_sides_that_are_no_power_of_two_are_refused(side_px: int) -> None:
    with pytest.raises(ValidationError):
        wgan_gp.Config(kind="wgan_gp", input_px=side_px)
