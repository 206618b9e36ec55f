"""Deep SVDD: what its losses are, whose weights they move, and that no constant can be learned."""

import copy
from collections.abc import Iterable

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import deep_svdd
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.deep_svdd import LEAST_COORDINATE, Sphere, Trainee, away_from_zero, soft_boundary
from uadray.detectors.pixels import to_pixels
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.networks.lenet import Decoder, Encoder

pytestmark = pytest.mark.usefixtures("torch_alone")

SVDD = deep_svdd.Config(
    kind="deep_svdd", input_px=16, width=4, latent_dim=6, nu=0.25, learning_rate=2e-3, weight_decay=1e-3
)
SOFT = SVDD.model_copy(update={"objective": "soft_boundary"})
CENTRE, ONE_CLASS = 0.62, 0.9


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: deep_svdd.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


def spheres(trainee: Trainee) -> Sphere:
    return trainee.sphere


@pytest.mark.parametrize("side_px", [16, 64])
def test_shapes(side_px: int) -> None:
    z = Encoder(width=4, input_px=side_px, outputs=5)(torch.rand(2, 3, side_px, side_px) * 2 - 1)
    assert z.shape == (2, 5)
    pictures = Decoder(width=4, input_px=side_px, latent_dim=5)(z)
    assert pictures.shape == (2, 3, side_px, side_px)
    assert pictures.abs().max() <= 1


def test_at_the_papers_size_it_has_the_papers_weights() -> None:
    """3 * 32 * 25 + 32 * 64 * 25 + 64 * 128 * 25 + 2048 * 128."""
    assert sum(p.numel() for p in Encoder(width=32, input_px=32, outputs=128).parameters()) == 520_544


def test_no_constant_can_be_learned() -> None:
    """Proposition 2: whatever the weights, zeros stay zeros in a network without biases; and there are none."""
    encoder = Encoder(width=4, input_px=16, outputs=5).eval()
    assert [name for name, _ in encoder.named_parameters() if not name.endswith("weight")] == []
    assert [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d) and m.affine] == []
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    torch.testing.assert_close(encoder(torch.zeros(2, 3, 16, 16)), torch.zeros(2, 5), rtol=0, atol=0)
    assert encoder(torch.ones(2, 3, 16, 16)).abs().min() > 0


@pytest.mark.parametrize(
    "values",
    [{"input_px": 48}, {"nu": 0}, {"width": 10_000}, {"autoencoder_fraction": 0.9, "centre_fraction": 0.1}],
)
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        deep_svdd.Config.model_validate({"kind": "deep_svdd"} | values)


def test_the_least_steps_have_every_phase() -> None:
    for config in (SVDD, SVDD.model_copy(update={"autoencoder_fraction": 0.93, "centre_fraction": 0.03})):
        trainee = trainee_of(config)
        seen = {trainee.phase(step / config.least_steps) for step in range(config.least_steps)}
        assert seen == {"autoencoder", "centre", "one class"}


def test_every_step_moves_what_it_may(x: Tensor) -> None:
    trainee = trainee_of(SOFT)
    spheres(trainee).centre.zero_()  # no numbers are not equal to themselves
    for progress, expected in ((0.0, {"encoder", "decoder"}), (CENTRE, {"sphere"}), (ONE_CLASS, {"encoder", "sphere"})):
        before = state_of(trainee.networks)
        trainee.step(x, progress)
        assert moved(trainee.networks, before) == expected
    centre = spheres(trainee).centre.clone()
    trainee.step(x, ONE_CLASS)
    assert torch.equal(spheres(trainee).centre, centre)


def test_the_centre_is_the_mean_of_all_codes_as_they_are_scored(x: Tensor) -> None:
    trainee = trainee_of(SVDD)
    trainee.step(x, 0.0)
    for part in (x[:5], x[5:]):
        trainee.step(part, CENTRE)
    with torch.no_grad():
        mean = trainee.encoder.eval()(x).mean(0)
    torch.testing.assert_close(spheres(trainee).centre, away_from_zero(mean))


def test_no_coordinate_of_the_centre_is_near_zero() -> None:
    given = torch.tensor([0.0, 0.01, -0.01, 0.3, -2.0, LEAST_COORDINATE])
    torch.testing.assert_close(away_from_zero(given), torch.tensor([0.1, 0.1, -0.1, 0.3, -2.0, 0.1]))


def test_the_soft_boundary_is_equation_3() -> None:
    distances, radius = [0.5, 4.0, 9.0], 2.0
    naive = radius**2 + sum(max(0.0, d - radius**2) for d in distances) / (0.1 * 3)
    found = soft_boundary(torch.tensor(distances), torch.tensor(radius), nu=0.1)
    torch.testing.assert_close(found, torch.tensor(naive))


@pytest.mark.parametrize("config", [SVDD, SOFT], ids=lambda config: config.objective)
def test_the_step_descends_the_papers_loss(config: deep_svdd.Config, x: Tensor) -> None:
    """Gradients, and Adam's decay of weights, against those of the loss written out."""
    trainee = trainee_of(config)
    trainee.step(x, CENTRE)
    spheres(trainee).radius.fill_(0.7)
    c = spheres(trainee).centre.clone()
    encoder = copy.deepcopy(trainee.encoder).train()
    distance = ((encoder(x) - c) ** 2).sum(1)
    outside = torch.stack([max(d - 0.49, torch.zeros(())) for d in distance])
    loss = distance.mean() if config is SVDD else 0.49 + outside.mean() / 0.25
    loss.backward()
    adam = torch.optim.Adam(encoder.parameters(), lr=2e-3, weight_decay=1e-3)
    adam.step()
    trainee.step(x, 0.66)  # before the rate falls
    for ours, expected in zip(trainee.encoder.parameters(), encoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_the_radius_is_the_quantile_of_the_distances(x: Tensor) -> None:
    trainee = trainee_of(SOFT)
    trainee.step(x, CENTRE)
    trainee.step(x, 0.66)
    assert float(spheres(trainee).radius) == 0  # warm-up
    with torch.no_grad():
        distance = (copy.deepcopy(trainee.encoder).train()(x) - spheres(trainee).centre).norm(dim=1)
    trainee.step(x, ONE_CLASS)
    radius = spheres(trainee).radius
    assert int((distance > radius).sum()) == 2  # a quarter of eight
    torch.testing.assert_close(radius, distance.quantile(0.75))


def test_the_rate_falls_to_a_tenth(x: Tensor) -> None:
    trainee = trainee_of(SVDD)
    rates = []
    for progress in (0.0, 0.59, CENTRE, 0.66, 0.99):
        trainee.step(x, progress)
        rates.append([group["lr"] for name in trainee.learning for group in trainee.optimizers[name].param_groups])
    assert rates == [[2e-3, 2e-3], [2e-4, 2e-3], [2e-4, 2e-3], [2e-4, 2e-3], [2e-4, 2e-4]]


def test_it_learns_to_bring_normal_tiles_together(x: Tensor) -> None:
    trainee = trainee_of(SVDD)
    errors = [float(trainee.step(x, 0.6 * i / 40)["squared_error"]) for i in range(40)]
    assert errors[-1] < 0.8 * errors[0]
    assert trainee.reconstruct(x) is not None
    trainee.step(x, CENTRE)
    assert trainee.reconstruct(x) is None
    distances = [float(trainee.step(x, 0.66)["squared_distance"]) for _ in range(40)]
    assert distances[-1] < 0.5 * distances[0]


def test_two_workers_have_the_centre_of_one(x: Tensor) -> None:
    """Each worker sees half of the tiles; what is averaged is the same on both."""
    halves = []
    for part in (x[:3], x[3:]):
        sphere = Sphere(6)
        halves.append(sphere.sums_of(trainee_of(SVDD).encoder.eval()(part).detach()))
    together, alone = Sphere(6), Sphere(6)
    together.add([torch.stack(pair).mean(0) for pair in zip(*halves, strict=True)])
    alone.add(alone.sums_of(trainee_of(SVDD).encoder.eval()(x).detach()))
    torch.testing.assert_close(together.centre, alone.centre)


def test_all_that_is_fitted_is_averaged(x: Tensor) -> None:
    asked: list[int] = []

    def average(tensors: Iterable[Tensor]) -> None:
        asked.append(sum(t.numel() for t in tensors))

    torch.manual_seed(0)
    trainee = build_trainee(SOFT, build_networks(SOFT), average=average)
    of_encoder = sum(p.numel() for p in trainee.networks["encoder"].parameters())
    of_decoder = sum(p.numel() for p in trainee.networks["decoder"].parameters())
    statistics = 2 * (4 + 8)
    for progress in (0.0, CENTRE, ONE_CLASS):
        trainee.step(x, progress)
    trainee.finish()
    assert asked == [of_encoder + of_decoder, statistics, 1 + 6, of_encoder, 1, statistics]


def test_without_a_centre_there_is_no_detector(x: Tensor) -> None:
    trainee = trainee_of(SVDD)
    trainee.step(x, 0.0)
    with pytest.raises(UnsuitableTilesError, match="more steps"):
        trainee.finish()


@pytest.mark.parametrize("config", [SVDD, SOFT], ids=lambda config: config.objective)
def test_the_score_is_the_squared_distance_from_the_centre(config: deep_svdd.Config, x: Tensor) -> None:
    trainee = trainee_of(config)
    for progress in (0.0, CENTRE, ONE_CLASS):
        trainee.step(x, progress)
    detector = build_detector(config, trainee.networks)
    scored = detector(to_pixels(x))
    (seen,) = detector.inputs(to_pixels(x))
    with torch.no_grad():
        distance = (trainee.encoder.eval()(seen) - spheres(trainee).centre).pow(2).sum(1)
    expected = distance - spheres(trainee).radius ** 2 if config is SOFT else distance
    torch.testing.assert_close(torch.from_numpy(scored.score).float(), expected, rtol=1e-4, atol=1e-5)
    assert scored.pictures([0])[1] is None


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(SVDD, build_networks(SVDD) | {"sphere": nn.Identity()})
