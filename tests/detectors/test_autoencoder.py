"""The plain autoencoder: its loss and its score by hand, and that it learns to repeat."""

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import autoencoder
from uadray.detectors.autoencoder import SquaredResidual, Trainee
from uadray.detectors.building import build_detector, build_networks, build_trainee

pytestmark = pytest.mark.usefixtures("torch_alone")

PLAIN = autoencoder.Config(kind="autoencoder", input_px=16, width=4, latent_dim=8, learning_rate=5e-3)
TERMS = autoencoder.Config.model_validate(PLAIN.model_dump() | {"terms": [{"kind": "pixel_l2", "by_contrast": True}]})


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return smooth_pictures()


def trainee_of(config: autoencoder.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 48}, {"input_px": 8}, {"terms": [{"kind": "word"}]}])
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        autoencoder.Config.model_validate({"kind": "autoencoder"} | values)


def test_the_loss_is_the_mean_squared_error(x: Tensor) -> None:
    trainee = trainee_of(PLAIN)
    with torch.no_grad():
        x_hat = trainee.decoder(trainee.encoder(x))
    pairs = zip(x.flatten().tolist(), x_hat.flatten().tolist(), strict=True)
    expected = sum((a - b) ** 2 for a, b in pairs) / x.numel()
    before = state_of(trainee.networks)
    assert float(torch.as_tensor(trainee.step(x, 0.0)["squared_error"])) == pytest.approx(expected, rel=1e-4)
    assert moved(trainee.networks, before) == {"encoder", "decoder"}


def test_it_learns_to_repeat(x: Tensor) -> None:
    trainee = trainee_of(PLAIN)
    values = [float(torch.as_tensor(trainee.step(x, i / 60)["squared_error"])) for i in range(60)]
    assert sum(values[-5:]) < 0.5 * sum(values[:5])


def test_the_score_of_a_made_up_case() -> None:
    """Two colours of one pixel of 4 x 4 are wrong, by 0.5 and 1."""
    x, x_hat = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    x_hat[1, :2, 3, 2] = torch.tensor([0.5, -1.0])
    score, residual = SquaredResidual()(x, x_hat, torch.zeros(2, 1))
    assert score.tolist() == pytest.approx([0, 1.25 / 48])
    assert residual[1, 3, 2] == pytest.approx(0.5)
    assert residual.count_nonzero() == 1


def test_terms_are_normalised_by_the_last_steps(x: Tensor) -> None:
    trainee = trainee_of(TERMS)
    assert trainee.phases == ("reconstruction", "normals")
    trainee.step(x, 0.0)
    before = state_of(trainee.networks)
    for _ in range(4):
        assert set(trainee.step(smooth_pictures(16), 0.96)) == {"0_pixel_l2"}
    trainee.finish()
    assert moved(trainee.networks, before) == {"normals"}
    pixels = ((smooth_pictures(16).permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    score = build_detector(TERMS, trainee.networks)(pixels).score
    assert abs(float(score.mean())) < 1.5
    assert 0.3 < float(score.std()) < 3
