"""VAE-GAN: its three terms by hand, whose weights a step moves, both latents, and the threshold of its score."""

import copy
import math

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import vae_gan
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.pixels import to_pixels
from uadray.detectors.vae_gan import AbsoluteResidual, Trainee, vae_gan_loss

pytestmark = pytest.mark.usefixtures("torch_alone")

SPATIAL = vae_gan.Config(
    kind="vae_gan", input_px=16, width=4, latent_dim=3, halvings=2, learning_rate=2e-3,
    discriminator_learning_rate=5e-3, reconstruction_weight=0.5, kl_weight=2.0,
)  # fmt: skip
WEIGHED = SPATIAL.model_copy(update={"adversarial_weight": 3.0})
VECTOR = SPATIAL.model_copy(update={"latent": "vector"})


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return smooth_pictures()


def trainee_of(config: vae_gan.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 48}, {"input_px": 16, "halvings": 5}, {"percentile": 100}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        vae_gan.Config.model_validate({"kind": "vae_gan"} | values)


def test_the_first_two_terms_are_sums() -> None:
    """Of two residuals, and of the KL of one coordinate against quadrature."""
    x, x_hat = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    x_hat[0, 0, 0, 0], x_hat[0, 2, 1, 1] = 0.25, -0.5
    mean, log_variance = torch.tensor([[0.7]]), torch.tensor([[-0.4]])
    residual, kl = vae_gan_loss(x, x_hat, mean, log_variance)
    assert float(residual) == pytest.approx(0.75)
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    sigma = math.exp(-0.2)
    log_q = -0.5 * ((z - 0.7) / sigma) ** 2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)
    log_p = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    assert float(kl) == pytest.approx(float(torch.trapezoid(log_q.exp() * (log_q - log_p), z)), rel=1e-5)


def test_the_decoder_takes_a_step_of_its_own() -> None:
    """It moves nothing else, and the discriminator believes it more than before."""
    torch.manual_seed(0)
    x, trainee = smooth_pictures(), trainee_of(SPATIAL)
    assert set(trainee.optimizers) == {"autoencoder", "discriminator", "decoder"}
    losses, before = trainee.step(x, 0.0), state_of(trainee.networks)
    assert set(losses) == {"discriminator", "discriminator_accuracy", "residual", "kl", "adversarial"}
    z = torch.randn(8, 3, 4, 4)
    believed = [float(trainee._decoder_step(z)["adversarial"]) for _ in range(15)]
    assert moved(trainee.networks, before) == {"decoder"}
    assert believed[-1] < believed[0]


@pytest.mark.parametrize(
    "config", [WEIGHED, WEIGHED.model_copy(update={"latent": "vector"})], ids=lambda config: config.latent
)
def test_the_step_of_one_sum_is_the_papers(config: vae_gan.Config, x: Tensor) -> None:
    """Gradients of encoder and decoder against those of the three weighted terms, written out."""
    trainee = trainee_of(config)
    assert set(trainee.optimizers) == {"autoencoder", "discriminator"}
    twins, before = copy.deepcopy(trainee.networks), state_of(trainee.networks)
    torch.manual_seed(5)
    trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"encoder", "decoder", "discriminator"}
    torch.manual_seed(5)
    mean, log_variance = twins["encoder"](x).chunk(2, 1)
    x_hat = twins["decoder"](mean + (log_variance / 2).exp() * torch.randn(mean.shape))
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / len(x)
    word = trainee.networks["discriminator"](x_hat)
    loss = 0.5 * (x - x_hat).abs().sum() / len(x) + 2 * kl - 3 * (1 / (1 + (-word).exp())).log().mean()
    loss.backward()
    for name in ("encoder", "decoder"):
        for ours, expected in zip(trainee.networks[name].parameters(), twins[name].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-4)


def test_latents_have_places_or_none(x: Tensor) -> None:
    for config, shape in ((SPATIAL, (8, 3, 4, 4)), (VECTOR, (8, 3))):
        networks = trainee_of(config).networks
        detector = build_detector(config, networks)
        z = detector.mapping(x)
        assert isinstance(z, Tensor)
        assert z.shape == shape
        torch.testing.assert_close(z, networks["encoder"](x).chunk(2, 1)[0])
        x_hat = detector.reconstruct(z)
        assert x_hat is not None
        assert x_hat.shape == x.shape


def test_it_learns_to_repeat(x: Tensor) -> None:
    trainee = trainee_of(WEIGHED.model_copy(update={"kl_weight": 0.1}))
    values = [float(torch.as_tensor(trainee.step(x, i / 80)["residual"])) for i in range(80)]
    assert sum(values[-5:]) < 0.7 * sum(values[:5])


def test_the_score_of_a_made_up_case() -> None:
    x, x_hat = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    x_hat[1, :2, 3, 2] = torch.tensor([0.5, -1.0])
    score, residual = AbsoluteResidual(None)(x, x_hat, torch.zeros(2, 1))
    assert score.tolist() == pytest.approx([0, 1.5 / 48])
    assert residual[1, 3, 2] == pytest.approx(0.5)


def test_a_tile_like_the_normal_ones_is_above_the_threshold_in_two_pixels_of_a_hundred(x: Tensor) -> None:
    config = SPATIAL.model_copy(update={"score": "above"})
    trainee = trainee_of(config)
    assert trainee.phases == ("adversarial", "threshold")
    trainee.step(x, 0.0)
    before = state_of(trainee.networks)
    torch.manual_seed(1)
    normals = smooth_pictures(64)
    trainee.step(normals, 0.96)
    trainee.finish()
    assert moved(trainee.networks, before) == {"threshold"}
    scored = build_detector(config, trainee.networks)(to_pixels(normals))
    assert float(scored.score.mean()) == pytest.approx(0.02, abs=0.003)
