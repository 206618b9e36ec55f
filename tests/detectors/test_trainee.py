"""One step of each trainee on a CPU: losses fall on a fixed batch, and each phase moves only what it may."""

import math

import pytest
import torch
from torch import Tensor, nn

from uadray.detectors.catalog import DpaConfig, FanoganConfig, Networks, build_networks
from uadray.detectors.trainee import DpaTrainee, FanoganTrainee, build_trainee

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = DpaConfig(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block2"), learning_rate=5e-3)
GAN = FanoganConfig(
    kind="fanogan", input_px=16, width=4, latent_dim=8, critic_steps=2, encoder_fraction=0.4,
    gan_learning_rate=1e-3, encoder_learning_rate=2e-3,
)  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    """Eight smooth pictures."""
    coarse = torch.rand(8, 3, 4, 4) * 2 - 1
    return nn.functional.interpolate(coarse, size=16, mode="bilinear").clamp(-1, 1)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in network.state_dict().items()}


def _changed(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(t, before[name]) for name, t in network.state_dict().items())


def _moved(networks: Networks, before: dict[str, dict[str, Tensor]]) -> set[str]:
    return {name for name, network in networks.items() if _changed(network, before[name])}


def test_build_trainee_matches_the_configuration() -> None:
    assert type(build_trainee(GAN, build_networks(GAN))) is FanoganTrainee
    assert type(build_trainee(DPA, build_networks(DPA))) is DpaTrainee


def test_dpa_learns(x: Tensor) -> None:
    trainee = build_trainee(DPA, build_networks(DPA))
    trainee.prepare(x)
    losses = [trainee.step(x, i / 30)["perceptual"] for i in range(30)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert trainee.reconstruct(x).shape == x.shape


def test_dpa_leaves_the_backbone_alone(x: Tensor) -> None:
    networks = build_networks(DPA)
    trainee = build_trainee(DPA, networks)
    trainee.prepare(x)
    before = {name: _state(network) for name, network in networks.items()}
    trainee.step(x, 0.0)
    assert _moved(networks, before) == {"encoder", "decoder"}


def test_dpa_learning_rate_falls_along_a_half_cosine_to_2_percent(x: Tensor) -> None:
    trainee = build_trainee(DPA, build_networks(DPA))
    rates = []
    for progress in (0.0, 0.5, 1.0):
        trainee.step(x, progress)
        rates.append(trainee.optimizers["adam"].param_groups[0]["lr"] / DPA.learning_rate)
    assert rates == pytest.approx([1.0, 0.02 + 0.98 * 0.5, 0.02])


def test_pixel_weight_adds_the_pixel_loss(x: Tensor) -> None:
    trainee = build_trainee(DPA.model_copy(update={"pixel_weight": 0.5}), build_networks(DPA))
    result = trainee.step(x, 0.0)
    assert result["loss"] > result["perceptual"]
    plain = build_trainee(DPA, build_networks(DPA)).step(x, 0.0)
    assert plain["loss"] == plain["perceptual"]


def test_dpa_preparation_takes_real_features() -> None:
    networks = build_networks(DPA) | {"features": nn.Identity()}
    with pytest.raises(TypeError, match="expected PerceptualFeatures, found Identity"):
        DpaTrainee(DPA, networks).prepare(torch.zeros(2, 3, 16, 16))


def test_the_critic_learns_to_tell(x: Tensor) -> None:
    """Its estimate of the Wasserstein distance grows while the generator stands still."""
    trainee = FanoganTrainee(GAN.model_copy(update={"critic_steps": 1000}), build_networks(GAN))
    distances = [trainee.step(x, 0.0)["wasserstein"] for _ in range(30)]
    assert sum(distances[-5:]) / 5 > sum(distances[:5]) / 5 + 0.1


def test_the_generator_learns_to_please_the_critic() -> None:
    trainee = FanoganTrainee(GAN, build_networks(GAN))
    losses = [trainee.generator_step(16, torch.device("cpu"))["generator"] for _ in range(30)]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.05


def test_the_encoder_learns(x: Tensor) -> None:
    networks = build_networks(GAN)
    trainee = build_trainee(GAN, networks)
    with torch.no_grad():
        x = networks["generator"].eval()(torch.randn(8, 8))  # what a generator can make, an encoder can find
    losses = [trainee.step(x, 0.9)["izi_f"] for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_critic_step_moves_the_critic_alone(x: Tensor) -> None:
    networks = build_networks(GAN)
    trainee = FanoganTrainee(GAN, networks)
    weights = {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
    trainee.critic_step(x)
    same = {n: all(map(torch.equal, network.parameters(), weights[n])) for n, network in networks.items()}
    assert same == {"generator": True, "critic": False, "encoder": True}
    assert all(p.grad is None for p in networks["generator"].parameters())


def test_a_generator_step_moves_the_generator_alone() -> None:
    networks = build_networks(GAN)
    trainee = FanoganTrainee(GAN, networks)
    before = {name: _state(network) for name, network in networks.items()}
    trainee.generator_step(4, torch.device("cpu"))
    assert _moved(networks, before) == {"generator"}
    assert all(p.requires_grad for p in networks["critic"].parameters())


def test_the_generator_steps_every_critic_steps(x: Tensor) -> None:
    trainee = build_trainee(GAN, build_networks(GAN))
    assert [("generator" in trainee.step(x, 0.0)) for _ in range(6)] == [False, True, False, True, False, True]


def test_phases_switch_at_encoder_fraction(x: Tensor) -> None:
    trainee = build_trainee(GAN, build_networks(GAN))
    phases = ["izi_f" if "izi_f" in trainee.step(x, i / 10) else "gan" for i in range(10)]
    assert phases == ["gan"] * 6 + ["izi_f"] * 4


def test_generator_and_critic_are_frozen_in_the_encoder_phase(x: Tensor) -> None:
    """Weights and running statistics, also where an epoch has just put all networks into training mode."""
    networks = build_networks(GAN)
    trainee = build_trainee(GAN, networks)
    trainee.step(x, 0.0)
    before = {name: _state(network) for name, network in networks.items()}
    for _ in range(3):
        for network in networks.values():
            network.train()
        trainee.step(x, 0.99)
    assert _moved(networks, before) == {"encoder"}


def test_averaging_is_asked_for_before_each_optimizer_step(x: Tensor) -> None:
    """Zeroed gradients stand for a group whose workers cancel out: nothing may move."""

    def cancel(parameters) -> None:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)

    for config, progress in ((DPA, 0.0), (GAN, 0.0), (GAN, 0.9)):
        networks = build_networks(config)
        weights = {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
        trainee = build_trainee(config, networks, average=cancel)
        for _ in range(2):
            assert all(math.isfinite(value) for value in trainee.step(x, progress).values())
        assert all(all(map(torch.equal, n.parameters(), weights[name])) for name, n in networks.items())
