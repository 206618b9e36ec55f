"""Synthetic anomalies: the loss of a step, what the scores are, and that a network finds what does not belong."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor

from uadray.detectors import synthetic_anomalies
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.pixels import to_pixels
from uadray.detectors.synthetic_anomalies import Trainee, contrast
from uadray.detectors.trainee import UnsuitableTilesError, alone
from uadray.networks.segmenter import MapDecoder, MapEncoder

pytestmark = pytest.mark.usefixtures("torch_alone")

KINDS = ("interpolated", "pasted", "blended")
STEPS = 110


def config_of(**values: object) -> synthetic_anomalies.Config:
    small = {"kind": "synthetic_anomalies", "input_px": 32, "width": 8, "halvings": 3, "learning_rate": 5e-3}
    return synthetic_anomalies.Config.model_validate(small | values)


def striped(n: int) -> Tensor:
    """Tiles with stripes of one direction each, of other tiles other ones, all as bright and as contrasted."""
    angle = torch.rand(n, 1, 1) * torch.pi
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    waves = torch.sin(0.9 * (angle.cos() * y + angle.sin() * x) + 2 * torch.pi * torch.rand(n, 1, 1))
    return (0.6 * waves[:, None] * torch.tensor([1.0, 0.8, 0.9])[:, None, None]).contiguous()


def trainee_of(config: synthetic_anomalies.Config, **options: object) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config), **options)  # type: ignore[arg-type]
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize(("side", "halvings"), [(16, 2), (64, 4), (48, 3)])
def test_the_map_has_the_sides_of_the_tile(side: int, halvings: int) -> None:
    encoder, decoder = MapEncoder(width=4, halvings=halvings), MapDecoder(width=4, halvings=halvings)
    features = encoder(torch.rand(2, 3, side, side))
    assert features.shape == (2, encoder.channels, side // 2**halvings, side // 2**halvings)
    assert decoder(features).shape == (2, 1, side, side)


@pytest.mark.parametrize(
    "values",
    [
        {"input_px": 40, "halvings": 4},
        {"anomalies": "blended", "border_px": 2},
        {"mixed_gradients": True},
        {"anomalies": "drawn"},
        {"width": 10_000},
    ],
)
def test_configurations_that_cannot_be(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config_of(**values)


@pytest.mark.parametrize("anomalies", KINDS)
def test_the_loss_is_the_cross_entropy_against_the_labels(anomalies: str) -> None:
    """The step's gradients against those of the loss written out, on the same anomalies."""
    x = smooth_pictures(4, 32)
    trainee = trainee_of(config_of(anomalies=anomalies))
    torch.manual_seed(3)
    made = trainee.synthesis(x, torch.rand(4, trainee.draws))
    p = torch.sigmoid(trainee.decoder(trainee.encoder(made.x)))
    loss = -(made.label * p.log() + (1 - made.label) * (1 - p).log()).mean()
    expected = torch.autograd.grad(loss, trainee.learning)
    torch.manual_seed(3)
    found = trainee.step(x, 0.0)
    torch.testing.assert_close(torch.as_tensor(found["cross_entropy"]), loss.detach())
    for parameter, gradient in zip(trainee.learning, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    is_patch = made.label > 0
    torch.testing.assert_close(torch.as_tensor(found["contrast"]), (p[is_patch].mean() - p[~is_patch].mean()).detach())


def test_contrast_of_a_perfect_map_is_one_and_of_an_even_map_none() -> None:
    label = (torch.rand(2, 1, 8, 8) > 0.5).float()
    assert float(contrast(40 * (2 * label - 1), label)) == pytest.approx(1)
    assert float(contrast(torch.zeros(2, 1, 8, 8), label)) == pytest.approx(0)
    assert float(contrast(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))) == pytest.approx(-0.5)


@pytest.mark.parametrize("anomalies", KINDS)
def test_a_network_finds_what_does_not_belong(anomalies: str) -> None:
    """Stripes within stripes of another direction, on tiles that it has not seen: in which tile, and where."""
    trainee = trainee_of(config_of(anomalies=anomalies, halvings=2, learning_rate=3e-3))
    for step in range(STEPS):
        trainee.step(striped(16), step / STEPS)
    torch.manual_seed(9)
    normal = striped(48)
    altered, mask = normal.clone(), torch.zeros(48, 32, 32, dtype=torch.bool)
    mask[:, 10:22, 6:18] = True
    altered = torch.where(mask[:, None], normal.roll(1, 0), normal)
    found = build_detector(trainee.config, trainee.networks)(to_pixels(torch.cat([normal, altered])))
    labels = np.repeat([0, 1], 48)
    assert roc_auc_score(labels, found.score) > 0.95
    maps = found.maps(range(48, 96))
    assert maps.shape == (48, 32, 32)
    assert roc_auc_score(mask.numpy().astype(int).ravel(), maps.ravel()) > 0.7


def test_the_score_is_the_mean_of_the_map_and_no_tile_depends_on_another() -> None:
    trainee = trainee_of(config_of())
    pixels = to_pixels(smooth_pictures(7, 32))
    detector = build_detector(trainee.config, trainee.networks)
    found = detector(pixels)
    maps = found.maps(range(7))
    np.testing.assert_allclose(found.score, maps.mean((1, 2)), rtol=1e-5)
    assert maps.std(0).mean() > 0
    alone_ = np.concatenate([detector(pixels[i : i + 1]).score for i in range(7)])
    np.testing.assert_allclose(found.score, alone_, rtol=1e-5)
    seen, x_hat = found.pictures([0])
    assert (seen == pixels[:1]).all()
    assert x_hat is None


def test_the_gaussians_score_is_the_mahalanobis_distance() -> None:
    """Of the encoder's mean features, shrunk by Ledoit and Wolf; while it is fitted the network stands still."""
    trainee = trainee_of(config_of(score="gaussian", density_share=0.5))
    x = smooth_pictures(60, 32)
    trainee.step(x[:8], 0.0)
    before = state_of(trainee.networks)
    for part in x.split(20):
        trainee.step(part, 0.7)
    trainee.finish()
    assert moved(trainee.networks, before) == {"moments", "projection"}
    with torch.no_grad():
        features = trainee.encoder(x).mean((2, 3)).double().numpy()
    fit = LedoitWolf().fit(features)
    pixels = to_pixels(smooth_pictures(5, 32))
    detector = build_detector(trainee.config, trainee.networks)
    with torch.no_grad():
        (seen,) = detector.inputs(pixels)
        tested = trainee.encoder(seen).mean((2, 3)).double().numpy()
    expected = np.sqrt(fit.mahalanobis(tested) / features.shape[1])
    np.testing.assert_allclose(detector(pixels).score, expected, rtol=1e-2)
    assert detector(pixels).maps([0]).shape == (1, 32, 32)


def test_phases_are_those_of_the_score() -> None:
    assert [trainee_of(config_of()).phase(p) for p in (0.0, 0.95)] == ["network", "network"]
    fitted = trainee_of(config_of(score="gaussian"))
    assert [fitted.phase(p) for p in (0.0, 0.85, 0.95)] == ["network", "network", "gaussian"]
    assert [fitted.learning_rate(p) for p in (0.0, 0.95)] == ["learning_rate", ""]
    assert fitted.config.least_steps == 11


def test_the_rate_falls_along_a_half_cosine() -> None:
    trainee = trainee_of(config_of(learning_rate=0.01))
    rates = []
    for progress in (0.0, 0.5, 1.0):
        trainee.step(smooth_pictures(2, 32), progress)
        rates.append(trainee.optimizers["adam"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.005, 0])


def test_nothing_moves_where_workers_cancel_out() -> None:
    def cancel(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.zero_()

    trainee = trainee_of(config_of(), average=cancel)
    before = state_of(trainee.networks)
    trainee.step(smooth_pictures(4, 32), 0.0)
    assert not moved(trainee.networks, before)
    trainee = trainee_of(config_of(), average=alone)
    trainee.step(smooth_pictures(4, 32), 0.0)
    assert moved(trainee.networks, before) == {"encoder", "decoder"}


def test_of_one_tile_no_anomaly_is_made() -> None:
    with pytest.raises(UnsuitableTilesError, match="batch_size"):
        trainee_of(config_of()).step(smooth_pictures(1, 32), 0.0)
