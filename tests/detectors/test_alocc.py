"""Adversarially learned one-class classifier: its losses, whose weights they move, and whom it asks."""

import copy

import numpy as np
import pytest
import torch
from disc_pictures import discs, share_above, striped
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import alocc
from uadray.detectors.alocc import Trainee, WordScore, as_discriminator, reconstruction_loss, shares_of_word
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.pixels import to_pixels

pytestmark = pytest.mark.usefixtures("torch_alone")

ALOCC = alocc.Config(kind="alocc", input_px=16, width=8, halvings=2, latent_channels=4, learning_rate=2e-3)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(7)
    return smooth_pictures()


def trainee_of(config: alocc.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 48}, {"input_px": 16, "halvings": 5}, {"noise": -1}, {"score": "x"}])
def test_configurations_that_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        alocc.Config.model_validate({"kind": "alocc"} | values)


def test_the_reconstruction_loss_by_hand() -> None:
    x, refined = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    refined[0, 0, 0, 0], refined[0, 2, 1, 1] = 2.0, -1.0
    assert float(reconstruction_loss(x, refined)) == pytest.approx(5 / 12)


def test_gradients_are_those_of_both_losses_written_out(x: Tensor) -> None:
    """The refiner sees the noisy tile, and is compared with the tile without noise."""
    trainee = trainee_of(ALOCC)
    ours = copy.deepcopy(trainee.networks)
    torch.manual_seed(5)
    trainee.step(x, 0.0)
    torch.manual_seed(5)
    noisy = x + 0.155 * torch.randn_like(x)
    refined = ours["decoder"](ours["encoder"](noisy))
    real, fake = ours["discriminator"](x).sigmoid(), ours["discriminator"](refined).sigmoid()
    telling = -(real.log().mean() + (1 - fake).log().mean())
    deceiving = -fake.log().mean() + 10 * ((x - refined) ** 2).mean()
    for names, value in ((("encoder", "decoder"), deceiving), (("discriminator",), telling)):
        parameters = [p for name in names for p in ours[name].parameters()]
        found = [p.grad for name in names for p in trainee.networks[name].parameters()]
        for gradient, expected in zip(found, torch.autograd.grad(value, parameters, retain_graph=True), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_a_step_moves_both_with_noise_of_its_own(x: Tensor) -> None:
    trainee = trainee_of(ALOCC)
    before = state_of(trainee.networks)
    first = trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"encoder", "decoder", "discriminator"}
    noiseless = trainee_of(ALOCC.model_copy(update={"noise": 0.0})).step(x, 0.0)
    assert float(first["error"]) != float(noiseless["error"])


def test_the_refiner_learns_to_take_noise_away() -> None:
    """Its pictures are closer to the tile than the noisy tile is."""
    trainee = trainee_of(ALOCC.model_copy(update={"width": 4, "noise": 0.4, "reconstruction_weight": 100.0}))
    torch.manual_seed(3)
    normals = discs(64)
    errors = [float(trainee.step(normals[8 * (step % 8) :][:8], 0.0)["error"]) for step in range(50)]
    assert np.mean(errors[-8:]) < 0.4 * 0.4**2


@pytest.mark.parametrize("score", ["refined", "tile"])
def test_the_score_has_the_order_of_one_minus_d(x: Tensor, score: str) -> None:
    """Of the tile it is asked about, refined without noise."""
    config = ALOCC.model_copy(update={"score": score})
    trainee = trainee_of(config)
    for _ in range(5):
        trainee.step(x, 0.0)
    detector = build_detector(config, trainee.networks)
    pixels = to_pixels(x)
    (seen,) = detector.inputs(pixels)
    with torch.no_grad():
        asked = trainee.reconstruct(seen) if score == "refined" else seen
        believed = trainee.discriminator(asked).squeeze(1).sigmoid()
    found = torch.from_numpy(detector(pixels).score).float()
    torch.testing.assert_close(found, -believed.log(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.argsort(), (1 - believed).argsort())


def test_confident_words_keep_their_order() -> None:
    """Where 1 - D is 1 for all of them."""
    network = as_discriminator(build_networks(ALOCC)["discriminator"])
    torch.nn.init.zeros_(network.to_vector.weight)
    scores = []
    for bias in (-20.0, -25.0, -30.0):
        torch.nn.init.constant_(network.to_vector.bias, bias)
        with torch.no_grad():
            score, _ = WordScore(network, of_refined=False)(torch.zeros(1, 3, 16, 16), None, torch.zeros(1))
        scores.append(float(score))
    assert 1 - torch.sigmoid(torch.tensor(-20.0)) == 1 == 1 - torch.sigmoid(torch.tensor(-30.0))
    assert scores == pytest.approx([20, 25, 30])


def test_the_map_sums_to_the_word(x: Tensor) -> None:
    network = as_discriminator(build_networks(ALOCC)["discriminator"])
    with torch.no_grad():
        shares = shares_of_word(network, network.features(x))
        score, where = WordScore(network, of_refined=False)(x, None, torch.zeros(8))
        word = network(x).squeeze(1)
    torch.testing.assert_close(shares.sum((1, 2)) + network.to_vector.bias, word, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(where, -shares)
    torch.testing.assert_close(score, nn.functional.softplus(-word))


def test_what_was_not_learned_scores_higher() -> None:
    """After learning discs: discs with stripes, whether it is asked about them as they are or refined."""
    config = ALOCC.model_copy(update={"width": 4, "latent_channels": 2, "reconstruction_weight": 100.0})
    trainee = trainee_of(config)
    torch.manual_seed(3)
    normals = discs(96)
    for step in range(60):
        trainee.step(normals[8 * (step % 8) :][:8], 0.0)
    pixels = to_pixels(torch.cat([normals[64:], striped(normals[64:])]))
    for score in ("tile", "refined"):
        scores = build_detector(config.model_copy(update={"score": score}), trainee.networks)(pixels).score
        assert share_above(scores[32:], scores[:32]) > 0.9, score


def test_a_score_depends_on_no_other_tile(x: Tensor) -> None:
    trainee = trainee_of(ALOCC)
    trainee.step(x, 0.0)
    detector = build_detector(ALOCC, trainee.networks)
    alone = [float(detector(to_pixels(x[i : i + 1])).score[0]) for i in range(4)]
    together = detector(to_pixels(x.flip(0))).score[::-1][:4]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)


def test_another_discriminator_is_refused() -> None:
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(ALOCC, build_networks(ALOCC) | {"discriminator": nn.Identity()})
