"""The adversarial autoencoder: whose weights which step moves, its loss by hand, and the five scores."""

import copy
import math

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import adversarial_autoencoder
from uadray.detectors.adversarial_autoencoder import Trainee
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.likelihood.judging import Discriminator
from uadray.detectors.pixels import to_pixels

pytestmark = pytest.mark.usefixtures("torch_alone")

ADVERSARIAL = adversarial_autoencoder.Config(
    kind="adversarial_autoencoder", input_px=16, width=4, latent_dim=8, learning_rate=5e-3,
    discriminator_learning_rate=5e-3, reconstruction_weight=0.7, adversarial_weight=0.3, kappa=2.0,
)  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return smooth_pictures()


def trainee_of(config: adversarial_autoencoder.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 48}, {"score": "word", "terms": [{"kind": "word"}]}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        adversarial_autoencoder.Config.model_validate({"kind": "adversarial_autoencoder"} | values)


def test_each_step_moves_its_own(x: Tensor) -> None:
    trainee = trainee_of(ADVERSARIAL)
    before = state_of(trainee.networks)
    trainee.judging.learn(x, trainee.reconstruct(x))
    assert moved(trainee.networks, before) == {"discriminator"}
    before = state_of(trainee.networks)
    trainee.autoencoder_step(x, trainee.reconstruct(x))
    assert moved(trainee.networks, before) == {"encoder", "decoder"}
    assert all(p.requires_grad for p in trainee.networks["discriminator"].parameters())


def test_the_autoencoders_loss_is_the_papers(x: Tensor) -> None:
    """Gradients of the step against those of 0.7 MSE - 0.3 log D(x_hat), written out, with D after its step."""
    trainee = trainee_of(ADVERSARIAL)
    twins = copy.deepcopy(trainee.networks)
    losses = trainee.step(x, 0.0)
    x_hat = twins["decoder"](twins["encoder"](x))
    judge = trainee.networks["discriminator"]
    probability = 1 / (1 + (-judge(x_hat)).exp())
    loss = 0.7 * ((x - x_hat) ** 2).mean() - 0.3 * probability.log().mean()
    loss.backward()
    for name in ("encoder", "decoder"):
        for ours, expected in zip(trainee.networks[name].parameters(), twins[name].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)
    real, fake = (1 / (1 + (-twins["discriminator"](t)).exp()) for t in (x, x_hat))
    expected_loss = -(real.log().mean() + (1 - fake).log().mean())
    assert float(torch.as_tensor(losses["discriminator"])) == pytest.approx(float(expected_loss.detach()), rel=1e-4)


def test_in_bfloat16_the_autoencoder_meets_the_discriminator_as_its_step_left_it(x: Tensor) -> None:
    """Autocast keeps weights that it has lowered, until it ends."""
    lines = []
    for at_once in (True, False):
        trainee = trainee_of(ADVERSARIAL.model_copy(update={"discriminator_learning_rate": 0.1}))
        if at_once:
            with torch.autocast("cpu", torch.bfloat16):
                lines.append(trainee.step(x, 0.0)["adversarial"])
        else:
            with torch.autocast("cpu", torch.bfloat16):
                trainee.judging.learn(x, trainee.reconstruct(x))
            with torch.autocast("cpu", torch.bfloat16):
                lines.append(trainee.autoencoder_step(x, trainee.reconstruct(x))["adversarial"])
    assert float(torch.as_tensor(lines[0])) == float(torch.as_tensor(lines[1]))


def test_the_discriminator_learns_to_tell(x: Tensor) -> None:
    trainee = trainee_of(ADVERSARIAL)
    x_hat = trainee.reconstruct(x).detach()
    lines = [trainee.judging.learn(x, x_hat) for _ in range(40)]
    assert float(lines[-1]["discriminator"]) < 0.3 * float(lines[0]["discriminator"])
    assert float(lines[-1]["discriminator_accuracy"]) == 1


def test_the_scores_by_hand(x: Tensor) -> None:
    networks = trainee_of(ADVERSARIAL).networks
    found: dict[str, Tensor] = {}
    for kind in ("image", "features", "sum", "word", "reference"):
        config = ADVERSARIAL.model_copy(update={"score": kind})
        detector = build_detector(config, networks)
        found[kind] = torch.from_numpy(detector(to_pixels(x)).score).float()
    (seen,) = build_detector(ADVERSARIAL, networks).inputs(to_pixels(x))
    judge = networks["discriminator"]
    assert isinstance(judge, Discriminator)
    for i, tile in enumerate(seen):
        x_hat = networks["decoder"](networks["encoder"](tile[None]))[0]
        image = float(((tile - x_hat) ** 2).mean())
        features = float(((judge.features(tile[None]) - judge.features(x_hat[None])) ** 2).mean())
        word, word_hat = (1 / (1 + math.exp(-float(judge(t[None])))) for t in (tile, x_hat))
        by_hand = {
            "image": image, "features": features, "sum": image + 2.0 * features, "word": 1 - word,
            "reference": -math.log(word_hat),
        }  # fmt: skip
        assert {kind: float(score[i]) for kind, score in found.items()} == pytest.approx(by_hand, rel=1e-3, abs=1e-5)


def test_the_discriminator_judges_every_tile_as_if_it_were_alone(x: Tensor) -> None:
    """In training as in scoring: no statistics of a batch."""
    judge = trainee_of(ADVERSARIAL).networks["discriminator"]
    for mode in (True, False):
        judge.train(mode)
        together = judge(x)
        torch.testing.assert_close(torch.cat([judge(tile[None]) for tile in x]), together, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(judge(x.flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)


def test_terms_ask_the_discriminator(x: Tensor) -> None:
    config = adversarial_autoencoder.Config.model_validate(
        ADVERSARIAL.model_dump() | {"terms": [{"kind": "critic_l2"}, {"kind": "word"}]}
    )
    trainee = trainee_of(config)
    trainee.step(x, 0.0)
    before = state_of(trainee.networks)
    assert set(trainee.step(smooth_pictures(16), 0.96)) == {"0_critic_l2", "1_word"}
    trainee.finish()
    assert moved(trainee.networks, before) == {"normals"}
    assert build_detector(config, trainee.networks)(to_pixels(x)).score.std() > 0
