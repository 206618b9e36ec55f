"""PIAD: what its losses are, whose weights they move, and how they are balanced."""

import copy

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import piad
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.losses import relative_perceptual_l1
from uadray.detectors.piad import DRIFT, SMOOTHING, Balance, Trainee
from uadray.detectors.pixels import to_pixels
from uadray.generators.gan_losses import gradient_penalty
from uadray.networks.piad import Encoder, Generator

pytestmark = pytest.mark.usefixtures("torch_alone")

PIAD = piad.Config(
    kind="piad", input_px=16, width=4, latent_dim=6, latent_width=8, layers=("block0", "block1"),
    learning_rate=2e-3, critic_learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def trainee_of(config: piad.Config, x: Tensor) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    trainee.prepare(x)
    return trainee


@pytest.mark.parametrize("side_px", [16, 64])
def test_shapes(side_px: int) -> None:
    encoder = Encoder(width=4, input_px=side_px, outputs=5)
    z = encoder(torch.rand(2, 3, side_px, side_px) * 2 - 1)
    assert z.shape == (2, 5)
    pictures = Generator(width=4, input_px=side_px, latent_dim=5)(z)
    assert pictures.shape == (2, 3, side_px, side_px)
    assert pictures.abs().max() <= 1


@pytest.mark.parametrize("values", [{"input_px": 48}, {"input_px": 8}, {"layers": []}, {"width": 1000}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        piad.Config.model_validate({"kind": "piad"} | values)


def test_every_step_moves_what_it_may(x: Tensor) -> None:
    trainee = trainee_of(PIAD, x)
    before = state_of(trainee.networks)
    trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"critic", "latent_critic"}
    before = state_of(trainee.networks)
    trainee.pair_step(x, is_first=True)
    assert moved(trainee.networks, before) == {"encoder", "generator", "balance"}


def test_encoder_and_generator_step_every_critic_steps(x: Tensor) -> None:
    trainee = trainee_of(PIAD.model_copy(update={"critic_steps": 3}), x)
    assert ["perceptual" in trainee.step(x, 0.0) for _ in range(6)] == [False, False, True] * 2


def test_the_critics_learn_to_tell(x: Tensor) -> None:
    """Their estimates of the distances grow while encoder and generator stand still."""
    trainee = trainee_of(PIAD, x)
    lines = [trainee.critics_step(x) for _ in range(60)]
    for name in ("critic_distance", "latent_critic_distance"):
        values = [float(line[name]) for line in lines]
        assert sum(values[-10:]) > sum(values[:10]) + 5, name


def test_all_four_together_learn_to_repeat(x: Tensor) -> None:
    """And latents stay as large as the prior draws them: without its critic the encoder's grow without end."""
    trainee = trainee_of(PIAD, x)
    lines = [trainee.step(x, i / 80) for i in range(80)]
    values = [float(line["perceptual"]) for line in lines if "perceptual" in line]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    assert 0.3 < float(trainee.encoder(x).std().detach()) < 4


def test_in_bfloat16_the_critics_are_as_their_step_left_them(x: Tensor) -> None:
    """Autocast keeps weights that it has lowered, until it ends."""
    lines = []
    for at_once in (True, False):
        trainee = trainee_of(PIAD.model_copy(update={"critic_steps": 1, "critic_learning_rate": 0.1}), x)
        torch.manual_seed(1)
        if at_once:
            with torch.autocast("cpu", torch.bfloat16):
                lines.append(trainee.step(x, 0.0))
        else:
            with torch.autocast("cpu", torch.bfloat16):
                trainee.critics_step(x)
            with torch.autocast("cpu", torch.bfloat16):
                lines.append(trainee.pair_step(x, is_first=True))
    for name in ("perceptual", "image", "latent"):
        torch.testing.assert_close(lines[0][name], lines[1][name], rtol=0, atol=0)


def test_the_critics_loss_is_the_papers(x: Tensor) -> None:
    """The step's gradients against those of the loss written out."""
    trainee = trainee_of(PIAD, x)
    critic = copy.deepcopy(trainee.critics["critic"])
    torch.manual_seed(3)
    trainee.critics_step(x)
    torch.manual_seed(3)
    drawn = torch.randn(len(x), 6)
    with torch.no_grad():
        fake = trainee.generator(drawn)
    real_values, fake_values = critic(x), critic(fake)
    share = torch.rand(len(x), 1, 1, 1)
    between = (share * x + (1 - share) * fake).requires_grad_()
    slopes = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
    penalty = (slopes.flatten(1).square().sum(1).sqrt() - 1).square().mean()
    loss = fake_values.mean() - real_values.mean() + 10 * penalty + DRIFT * real_values.square().mean()
    loss.backward()
    for ours, expected in zip(trainee.critics["critic"].parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-5)


def test_both_losses_pull_equally_hard(x: Tensor) -> None:
    """After the first step: the median of the layers' ratios, by hand."""
    trainee = trainee_of(PIAD, x)
    pair = copy.deepcopy({"encoder": trainee.encoder, "generator": trainee.generator})
    torch.manual_seed(4)
    trainee.pair_step(x, is_first=True)
    torch.manual_seed(4)
    code = pair["encoder"](x)
    perceptual = relative_perceptual_l1(trainee.features(x), trainee.features(pair["generator"](code))).mean()
    image = -trainee.critics["critic"](pair["generator"](torch.randn(len(x), 6))).mean()
    latent = -trainee.critics["latent_critic"](code).mean()
    for name, adversarial in (("encoder", latent), ("generator", image)):
        weights = {key: p for key, p in pair[name].named_parameters() if key.endswith("weight")}
        of_adversarial = torch.autograd.grad(adversarial, list(weights.values()), retain_graph=True)
        of_perceptual = torch.autograd.grad(perceptual, list(weights.values()), retain_graph=True)
        ratios = sorted(float(a.norm() / r.norm()) for a, r in zip(of_adversarial, of_perceptual, strict=True))
        weight = ratios[(len(ratios) - 1) // 2]
        first = next(iter(weights))
        expected = of_adversarial[0] + weight * of_perceptual[0]
        found = dict(trainee.networks[name].named_parameters())[first].grad
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_norms_are_smoothed_exponentially() -> None:
    balance = Balance({"encoder": 3})
    first, second = torch.tensor([[2.0, 4, 6], [1, 1, 1]]), torch.tensor([[4.0, 4, 4], [1, 2, 4]])
    assert float(balance.update("encoder", first, is_first=True)) == 4
    smoothed = (1 - SMOOTHING) * first + SMOOTHING * second
    expected = (smoothed[0] / smoothed[1]).median()
    torch.testing.assert_close(balance.update("encoder", second, is_first=False), expected)


def test_the_penalty_is_of_images_and_of_vectors() -> None:
    """Of a linear critic the slope is known."""
    for size in ((3, 4, 4), (5,)):
        w = torch.randn(*size)
        penalty = gradient_penalty(lambda t, w=w: (t * w).flatten(1).sum(1), torch.rand(4, *size), torch.rand(4, *size))
        torch.testing.assert_close(penalty, (w.norm() - 1) ** 2)


def test_the_score_is_the_relative_perceptual_l1(x: Tensor) -> None:
    networks = trainee_of(PIAD, x).networks
    pixels = to_pixels(x)
    detector = build_detector(PIAD, networks)
    scored = detector(pixels)
    (seen,) = detector.inputs(pixels)
    with torch.no_grad():
        f, f_hat = (networks["features"](t) for t in (seen, networks["generator"](networks["encoder"](seen))))
    layers = [(b - a).abs().sum((1, 2, 3)) / a.abs().sum((1, 2, 3)) for a, b in zip(f, f_hat, strict=True)]
    torch.testing.assert_close(torch.from_numpy(scored.score).float(), sum(layers) / len(layers), rtol=1e-4, atol=1e-5)
    assert scored.pictures([0])[1] is not None


def test_other_networks_are_refused(x: Tensor) -> None:
    networks = build_networks(PIAD) | {"balance": nn.Identity()}
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(PIAD, networks)
