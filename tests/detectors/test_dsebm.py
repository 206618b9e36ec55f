"""DSEBM: the energy, its gradient and its loss against naive ones; and that a known density is found."""

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import dsebm
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.dsebm import EnergyMap, Trainee, energy_and_gradient, score_matching
from uadray.detectors.pixels import to_pixels
from uadray.networks.energy import Energy

pytestmark = pytest.mark.usefixtures("torch_alone")

DSEBM = dsebm.Config(kind="dsebm", input_px=16, width=4, units=8)


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: dsebm.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


def energy_of(x: Tensor, *, side_px: int = 16) -> Energy:
    torch.manual_seed(0)
    network = Energy(width=4, input_px=side_px, units=8)
    nn.init.normal_(network.colour)
    return network.to(x.dtype)


class Bowl(nn.Module):
    """The energy of independent Gaussians around `mean`."""

    def __init__(self, mean: float, variance: float) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(math.log(variance)))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.mean).square() / self.log_variance.exp()).flatten(1).sum(1)


@pytest.mark.parametrize("values", [{"input_px": 48}, {"noise": 0}, {"width": 1000}, {"score": "gradient"}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        dsebm.Config.model_validate({"kind": "dsebm"} | values)


@pytest.mark.parametrize("side_px", [16, 64])
def test_the_energy_is_the_papers(side_px: int) -> None:
    x = smooth_pictures(3, side_px)
    network = energy_of(x, side_px=side_px)
    found = network(x)
    assert found.shape == (3,)
    for picture, energy in zip(x, found, strict=True):
        h = picture[None]
        for stage in network.stages:
            h = torch.log(1 + torch.exp(stage(h)))
        last = torch.log(1 + torch.exp(network.units(h.flatten(1))))
        b = network.colour.expand_as(picture)
        torch.testing.assert_close(energy, 0.5 * ((picture - b) ** 2).sum() - last.sum(), rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_finite_differences(x: Tensor) -> None:
    """At some pixels, in float64; the energy sums in float32, which a large step allows for."""
    network = energy_of(x).double()
    picture, step = x[:1].double(), 1e-2
    gradient = energy_and_gradient(network, picture)[1]
    for place in ((0, 0, 3, 4), (0, 1, 15, 0), (0, 2, 8, 8)):
        higher, lower = picture.clone(), picture.clone()
        higher[place] += step
        lower[place] -= step
        slope = (network(higher) - network(lower)) / (2 * step)
        torch.testing.assert_close(gradient[place].float(), slope[0].float(), rtol=1e-2, atol=5e-3)


def test_the_loss_has_gradients_of_finite_differences(x: Tensor) -> None:
    """Through the gradient of the energy: to each layer's weights."""
    network = energy_of(x)
    noise = 0.2 * torch.randn_like(x)
    score_matching(network, x, noise).sum().backward()
    for parameter in network.parameters():
        direction = torch.randn_like(parameter)
        values = []
        for share in (1e-2, -1e-2):
            moved_network = copy.deepcopy(network)
            for target, source in zip(moved_network.parameters(), network.parameters(), strict=True):
                if source is parameter:
                    target.data += share * direction
            values.append(float(score_matching(moved_network, x, noise).sum().detach()))
        assert parameter.grad is not None
        slope = (values[0] - values[1]) / 2e-2
        assert slope == pytest.approx(float((parameter.grad * direction).sum()), rel=2e-2, abs=2e-3)


def test_the_loss_is_the_denoising_error(x: Tensor) -> None:
    network, noise = energy_of(x), 0.2 * torch.randn_like(x)
    for row in range(8):
        noisy = (x[row : row + 1] + noise[row : row + 1]).requires_grad_()
        (slope,) = torch.autograd.grad(network(noisy).sum(), noisy)
        expected = ((x[row] - (noisy - slope)[0]) ** 2).mean()
        torch.testing.assert_close(score_matching(network, x, noise)[row], expected)


def test_a_gaussian_is_found() -> None:
    """Score matching at noise sigma finds N(mean, variance + sigma^2) over sigma^2, whose gradient denoises best."""
    torch.manual_seed(0)
    bowl = Bowl(0.0, 1.0)
    adam = torch.optim.Adam(bowl.parameters(), lr=0.05)
    for _ in range(200):
        x = 0.3 + 0.5 * torch.randn(64, 3, 4, 4)
        loss = score_matching(bowl, x, 0.4 * torch.randn_like(x)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert float(bowl.mean.detach()) == pytest.approx(0.3, abs=0.05)
    assert float(bowl.log_variance.detach().exp()) == pytest.approx((0.25 + 0.16) / 0.16, rel=0.1)


def test_every_step_moves_the_energy_alone_and_averages_its_gradients(x: Tensor) -> None:
    asked: list[int] = []

    def average(tensors: Iterable[Tensor]) -> None:
        asked.append(sum(t.numel() for t in tensors))

    trainee = build_trainee(DSEBM, build_networks(DSEBM), average=average)
    before = state_of(trainee.networks)
    trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"energy"}
    assert asked == [sum(p.numel() for p in trainee.networks["energy"].parameters())]


def test_it_learns_to_take_noise_away(x: Tensor) -> None:
    """Better than leaving it where it is, which costs its variance."""
    trainee = trainee_of(DSEBM.model_copy(update={"learning_rate": 1e-2, "noise": 0.4}))
    losses = [float(trainee.step(x, i / 200)["squared_error"]) for i in range(200)]
    assert sum(losses[-10:]) / 10 < min(0.16, 0.7 * losses[0])
    torch.testing.assert_close(trainee.reconstruct(x), x - energy_and_gradient(trainee.energy, x)[1])


@pytest.mark.parametrize("score", ["energy", "reconstruction"])
def test_the_scores_are_the_papers(score: str, x: Tensor) -> None:
    config = DSEBM.model_copy(update={"score": score})
    trainee = trainee_of(config)
    trainee.step(x, 0.0)
    detector = build_detector(config, trainee.networks)
    scored = detector(to_pixels(x))
    (seen,) = detector.inputs(to_pixels(x))
    network = trainee.energy
    leaf = seen.clone().requires_grad_()
    energy = network(leaf)
    (slope,) = torch.autograd.grad(energy.sum(), leaf)
    expected = energy.detach() / 768 if score == "energy" else slope.square().flatten(1).mean(1)
    torch.testing.assert_close(torch.from_numpy(scored.score).float(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(scored.maps([3])[0]), slope[3].square().mean(0), rtol=1e-3, atol=1e-5)


def test_it_scores_where_there_are_no_gradients(x: Tensor) -> None:
    """And what it gives has none."""
    mapping = EnergyMap(energy_of(x).requires_grad_(False))
    expected = mapping(x)
    for block in (torch.no_grad(), torch.inference_mode()):
        with block:
            found = mapping(x * 1)
        for a, b in zip(found, expected, strict=True):
            assert not a.requires_grad
            torch.testing.assert_close(a.clone(), b)


def test_at_the_energys_least_value_nothing_is_reconstructed(x: Tensor) -> None:
    """Of a known energy: distance from its centre."""
    x_hat, energy = EnergyMap(Bowl(0.0, 1.0))(x)
    torch.testing.assert_close(x_hat, torch.zeros_like(x))
    torch.testing.assert_close(energy, 0.5 * x.square().flatten(1).mean(1))
