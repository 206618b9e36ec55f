"""GANomaly: its losses against loops over numbers, whose weights they move, and what it finds."""

import copy

import pytest
import torch
from disc_pictures import discs, share_above, speckled
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import ganomaly
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.ganomaly import Trainee, adversarial_loss, code_distance, contextual_loss, encoder_loss
from uadray.detectors.pixels import to_pixels
from uadray.networks.coding import VectorEncoder

pytestmark = pytest.mark.usefixtures("torch_alone")

GANOMALY = ganomaly.Config(kind="ganomaly", input_px=16, width=8, latent_dim=6, learning_rate=2e-3)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(7)
    return smooth_pictures()


def trainee_of(config: ganomaly.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 48}, {"latent_dim": 1}, {"score": "l3"}, {"contextual_weight": -1}])
def test_configurations_that_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ganomaly.Config.model_validate({"kind": "ganomaly"} | values)


def test_losses_by_hand() -> None:
    a, b = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([[0.0, 2.0], [0.5, 1.0]])
    assert float(adversarial_loss(a, b)) == (1 + 16 + 0 + 4) / 4
    assert float(encoder_loss(a, b)) == (1 + 16 + 0 + 4) / 4
    assert float(contextual_loss(a.view(1, 1, 2, 2).expand(1, 3, 2, 2), b.view(1, 1, 2, 2).expand(1, 3, 2, 2))) == 7 / 4
    assert code_distance(a, b, score="l1").tolist() == [2.5, 1.0]
    assert code_distance(a, b, score="l2").tolist() == [8.5, 2.0]


def test_gradients_are_those_of_both_losses_written_out(x: Tensor) -> None:
    """Of the generator the weighted sum, of the discriminator the cross entropy, neither of the other."""
    trainee = trainee_of(GANOMALY)
    ours = copy.deepcopy(trainee.networks)
    trainee.step(x, 0.0)
    z = ours["encoder"](x)
    x_hat = ours["decoder"](z)
    z_hat = ours["second_encoder"](x_hat)
    discriminator = ours["discriminator"]
    assert isinstance(discriminator, VectorEncoder)
    f, f_hat = discriminator.features(x), discriminator.features(x_hat)
    loss = (f.detach() - f_hat).pow(2).mean() + 50 * (x - x_hat).abs().mean() + (z - z_hat).pow(2).mean()
    real, fake = ours["discriminator"](x).sigmoid(), ours["discriminator"](x_hat.detach()).sigmoid()
    telling = -(real.log().mean() + (1 - fake).log().mean()) / 2
    for names, value in ((("encoder", "decoder", "second_encoder"), loss), (("discriminator",), telling)):
        parameters = [p for name in names for p in ours[name].parameters()]
        found = [p.grad for name in names for p in trainee.networks[name].parameters()]
        for gradient, expected in zip(found, torch.autograd.grad(value, parameters, retain_graph=True), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_a_step_moves_both_sides_and_weights_of_zero_leave_the_second_encoder(x: Tensor) -> None:
    trainee = trainee_of(GANOMALY)
    before = state_of(trainee.networks)
    trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"encoder", "decoder", "second_encoder", "discriminator"}
    trainee = trainee_of(GANOMALY.model_copy(update={"encoder_weight": 0.0}))
    before = state_of(trainee.networks)
    trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"encoder", "decoder", "discriminator"}


@pytest.mark.parametrize("score", ["l1", "l2"])
def test_the_score_is_the_distance_of_both_codes(x: Tensor, score: str) -> None:
    config = GANOMALY.model_copy(update={"score": score})
    networks = trainee_of(config).networks
    detector = build_detector(config, networks)
    pixels = to_pixels(x)
    (seen,) = detector.inputs(pixels)
    with torch.no_grad():
        z = networks["encoder"](seen)
        x_hat = networks["decoder"](z)
        difference = (z - networks["second_encoder"](x_hat)).abs()
    expected = (difference if score == "l1" else difference**2).sum(1) / 6
    scored = detector(pixels)
    torch.testing.assert_close(torch.from_numpy(scored.score).float(), expected)
    torch.testing.assert_close(torch.from_numpy(scored.maps([3])), (seen - x_hat).abs().mean(1)[3:4])


def test_scores_are_not_brought_to_the_range_of_a_set(x: Tensor) -> None:
    """As the paper's are: the most abnormal tile of any set has 1 there."""
    detector = build_detector(GANOMALY, trainee_of(GANOMALY).networks)
    pixels = to_pixels(x)
    together = detector(pixels).score
    assert detector(pixels[3:5]).score.tolist() == pytest.approx(together[3:5].tolist(), rel=1e-5)
    assert (together.min(), together.max()) != (0, 1)


def test_what_was_not_learned_scores_higher() -> None:
    """After learning discs: discs with noise."""
    trainee = trainee_of(GANOMALY)
    torch.manual_seed(3)
    normals = discs(96)
    for step in range(100):
        trainee.step(normals[8 * (step % 8) :][:8], 0.0)
    score = build_detector(GANOMALY, trainee.networks)(
        to_pixels(torch.cat([normals[64:], speckled(normals[64:])]))
    ).score
    assert share_above(score[32:], score[:32]) > 0.75


def test_another_discriminator_is_refused() -> None:
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(GANOMALY, build_networks(GANOMALY) | {"discriminator": nn.Identity()})
