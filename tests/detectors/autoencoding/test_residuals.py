"""Mahalanobis distance of residuals: its covariance is scikit-learn's, its distances are numpy's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from sklearn.covariance import LedoitWolf

from uadray.detectors import dpa
from uadray.detectors.autoencoding.residuals import Residuals
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.errors import InputError
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

TRAINED = dpa.Config(kind="dpa", input_px=16, width=4, halvings=2, latent_channels=2, layers=("block0", "block2"))
SPEC = TileSpec(mpp=1.0, tile_px=16)


def _residuals(n: int) -> list[torch.Tensor]:
    """Two layers of correlated channels with a mean."""
    mixing = torch.randn(6, 6) * torch.linspace(0.1, 2, 6)
    first = torch.einsum("nchw,cd->ndhw", torch.randn(n, 6, 4, 4), mixing) + torch.linspace(-1, 1, 6).view(6, 1, 1)
    return [first, torch.rand(n, 3, 2, 2) ** 2]


def _samples(residual: torch.Tensor) -> np.ndarray:
    return residual.permute(0, 2, 3, 1).reshape(-1, residual.shape[1]).double().numpy()


@pytest.mark.parametrize("n", [3, 200])
def test_mean_covariance_and_shrinkage_are_those_of_scikit_learn(n: int) -> None:
    """Whatever the parts in which the residuals came."""
    residuals, seen = Residuals([6, 3]), _residuals(n)
    for start in range(0, n, 64):
        residuals.add(residuals.sums([r[start : start + 64] for r in seen]))
    residuals.fit()
    for i, residual in enumerate(seen):
        reference = LedoitWolf().fit(_samples(residual))
        whitening = residuals.get_buffer(f"whitening{i}").double().numpy()
        np.testing.assert_allclose(residuals.get_buffer(f"mean{i}"), reference.location_, rtol=1e-5, atol=1e-6)
        assert float(residuals.get_buffer(f"shrinkage{i}")) == pytest.approx(reference.shrinkage_, rel=1e-6)
        np.testing.assert_allclose(whitening.T @ whitening, reference.precision_, rtol=1e-4, atol=1e-4)


def test_distances_are_those_of_numpy() -> None:
    residuals, seen = Residuals([6, 3]), _residuals(50)
    residuals.add(residuals.sums(seen))
    residuals.fit()
    for residual, distances in zip(seen, residuals.distances(seen), strict=True):
        samples, reference = _samples(residual), LedoitWolf().fit(_samples(residual))
        expected = reference.mahalanobis(samples) / residual.shape[1]
        np.testing.assert_allclose(distances.flatten().numpy(), expected, rtol=1e-4)


def test_without_residuals_nothing_is_fitted() -> None:
    residuals = Residuals([2])
    with pytest.raises(UnsuitableTilesError, match="no residual"):
        residuals.fit()
    residuals.add(residuals.sums([torch.ones(4, 2, 3, 3)]))
    with pytest.raises(UnsuitableTilesError, match="are the same"):
        residuals.fit()


@pytest.fixture
def trained_uri(tmp_path: Path) -> str:
    trainee = build_trainee(TRAINED, build_networks(TRAINED))
    x = smooth_pictures()
    trainee.prepare(x)
    for i in range(3):
        trainee.step(x, i / 3)
    uri = (tmp_path / "trained").as_uri()
    write_bundle(uri, trainee.networks, name="trained", detector=TRAINED, tiles=SPEC)
    return uri


def _fitting(uri: str, **fields: object) -> dpa.Config:
    config = dpa.Config.model_validate({"kind": "dpa", "score": "mahalanobis", "autoencoder": uri} | fields)
    return dpa.with_autoencoder(config, dpa.read_autoencoder(uri).detector)


def test_a_trained_autoencoder_stands_still_while_its_residuals_are_seen(trained_uri: str, tmp_path: Path) -> None:
    config = _fitting(trained_uri)
    assert dpa.borrowed_weights(config) == ()
    networks = build_networks(config)
    before, trainee = state_of(networks), build_trainee(config, networks)
    assert trainee.optimizers == {}
    x = smooth_pictures(n=24)
    trainee.prepare(x[:8])
    for network in networks.values():
        network.train()  # as a training does at the start of an epoch
    trainee.step(x[:16], 0.0)
    trainee.step(x[16:], 0.5)
    trainee.finish()
    assert moved(networks, before) == {"residuals"}
    _check_scores(config, networks, x)
    written = write_bundle(str(tmp_path / "out"), networks, name="fitted", detector=config, tiles=SPEC)
    assert written.detector.autoencoder is None  # type: ignore[union-attr]
    assert read_bundle(str(tmp_path / "out")).id == written.id
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    expected = build_detector(config, networks)(pixels).score
    np.testing.assert_allclose(load_detector(str(tmp_path / "out"))(pixels).score, expected, rtol=1e-6)


@torch.no_grad()
def _check_scores(config: dpa.Config, networks: dict[str, torch.nn.Module], x: torch.Tensor) -> None:
    """Scores of tiles against LedoitWolf of their own residuals."""
    x_hat = networks["decoder"](networks["encoder"](x))
    residuals = [f - f_hat for f, f_hat in zip(networks["features"](x), networks["features"](x_hat), strict=True)]
    expected = np.zeros(len(x))
    for residual in residuals:
        distances = LedoitWolf().fit(_samples(residual)).mahalanobis(_samples(residual))
        expected += distances.reshape(len(x), -1).mean(1) / residual.shape[1] / len(residuals)
    detector = build_detector(config, networks)
    _, score, maps = detector._scored(x)
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-3)
    assert maps.shape == (len(x), 8, 8)


def test_other_sizes_than_those_of_the_autoencoder_are_refused(trained_uri: str) -> None:
    assert _fitting(trained_uri, width=4).halvings == 2
    with pytest.raises(InputError, match="has width 4; leave detector"):
        _fitting(trained_uri, width=8)
    incomplete = dpa.Config(kind="dpa", score="mahalanobis", autoencoder=trained_uri)
    with pytest.raises(InputError, match="take the configuration's fields from its bundle"):
        build_networks(incomplete)


def test_residuals_need_a_trained_autoencoder() -> None:
    config = TRAINED.model_copy(update={"score": "mahalanobis"})
    with pytest.raises(InputError, match="autoencoder is missing"):
        build_trainee(config, build_networks(config)).prepare(smooth_pictures())


def test_a_bundle_that_names_an_autoencoder_elsewhere_is_refused(trained_uri: str, tmp_path: Path) -> None:
    path = tmp_path / "trained" / "bundle.json"
    values = json.loads(path.read_text())
    values["detector"] |= {"score": "mahalanobis", "autoencoder": "s3://elsewhere/autoencoder"}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="names an autoencoder elsewhere"):
        read_bundle(trained_uri)
