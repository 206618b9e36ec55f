"""Densities beside scikit-learn's and the paper's by hand; resumed, and shared among workers."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from lockstep import trained, trained_together, trained_with_a_break
from networks_watch import smooth_pictures
from pydantic import ValidationError
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from torch import Tensor

from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.densities.mixture import Mixture
from uadray.detectors.features.frozen import BackboneConfig
from uadray.detectors.mahalanobis import Config
from uadray.detectors.pixels import to_input, to_pixels
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.errors import InputError
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

TILES = BackboneConfig(kind="backbone", layers=("block4",))
GAUSSIAN = Config(kind="mahalanobis", input_px=16, features=TILES)
RESIDUAL = Config(kind="mahalanobis", input_px=16, features=TILES, density="residual", components=10)
MIXTURE = Config(
    kind="mahalanobis", input_px=16, features=TILES, density="mixture", components=4, gaussians=3, candidates=50
)
EVERY = [GAUSSIAN, RESIDUAL, MIXTURE]


@pytest.fixture
def batches() -> list[Tensor]:
    """Four of 20 pictures."""
    return list(smooth_pictures(80).split(20))


@torch.no_grad()
def features(networks: Networks, x: Tensor) -> npt.NDArray[np.float64]:
    """Of tiles x, before they are projected: [N, C]."""
    z: Tensor = networks["features"](x)
    return z[:, :, 0, 0].double().numpy()


def test_the_gaussian_is_that_of_scikit_learn(batches: list[Tensor]) -> None:
    networks, tiles = trained(GAUSSIAN, batches), to_pixels(smooth_pictures(9))
    judge = LedoitWolf().fit(features(networks, torch.cat(batches)))
    squared = judge.mahalanobis(features(networks, to_input(tiles, 16)))
    found = build_detector(GAUSSIAN, networks)(tiles).score
    np.testing.assert_allclose(found, np.sqrt(squared / len(judge.location_)), rtol=1e-4)


def test_the_residual_is_that_of_the_paper(batches: list[Tensor]) -> None:
    """ViM, section 4.1: x less the origin, projected on the eigenvectors after the first D; its length."""
    networks, tiles = trained(RESIDUAL, batches), to_pixels(smooth_pictures(9))
    seen, queries = features(networks, torch.cat(batches)), features(networks, to_input(tiles, 16))
    _, vectors = np.linalg.eigh(np.cov(seen.T))
    outside = vectors[:, ::-1][:, 10:]
    lengths, of_seen = (np.linalg.norm((x - seen.mean(0)) @ outside, axis=1) for x in (queries, seen))
    found = build_detector(RESIDUAL, networks)(tiles).score
    np.testing.assert_allclose(found, lengths / np.sqrt((of_seen**2).mean()), rtol=1e-4)


def test_the_mixture_is_that_of_scikit_learn(batches: list[Tensor]) -> None:
    networks, tiles = trained(MIXTURE, batches), to_pixels(smooth_pictures(9))
    mixture = networks["mixture"]
    judge = GaussianMixture(3)
    judge.weights_, judge.means_ = mixture.get_buffer("shares").numpy(), mixture.get_buffer("means").numpy()
    judge.precisions_cholesky_ = mixture.get_buffer("factors").numpy()
    with torch.no_grad():
        z = networks["projection"](networks["features"](to_input(tiles, 16)))[:, :, 0, 0].double().numpy()
    found = build_detector(MIXTURE, networks)(tiles).score
    np.testing.assert_allclose(found, -judge.score_samples(z) / 4, rtol=1e-5)


def test_a_mixture_finds_the_clusters_that_there_are() -> None:
    mixture = Mixture(2, 2, rows=400)
    centres = torch.tensor([[-6.0, 0.0], [6.0, 1.0]])
    mixture.reservoir.add((centres[:, None] + torch.randn(2, 200, 2)).flatten(0, 1))
    mixture.fit(least_variance=1e-3)
    found = mixture.means[mixture.means[:, 0].argsort()]
    torch.testing.assert_close(found.float(), centres, atol=0.3, rtol=0)
    log_density = mixture(torch.cat([centres, torch.zeros(1, 2)]))
    assert (log_density[:2] - log_density[2] > 10).all()


def test_normal_tiles_score_about_1(batches: list[Tensor]) -> None:
    tiles = to_pixels(torch.cat(batches))
    assert build_detector(GAUSSIAN, trained(GAUSSIAN, batches))(tiles).score.mean() == pytest.approx(1, abs=0.3)
    residual = build_detector(RESIDUAL, trained(RESIDUAL, batches))(tiles).score
    assert np.sqrt((residual**2).mean()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.density)
def test_what_was_not_seen_is_improbable(config: Config, batches: list[Tensor]) -> None:
    detector = build_detector(config, trained(config, batches))
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    seen = detector(to_pixels(torch.cat(batches))).score
    assert roc_auc_score(np.repeat([0, 1], [80, 20]), np.concatenate([seen, detector(noise).score])) > 0.7


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.density)
@pytest.mark.parametrize("at", [1, 3])
def test_a_training_that_goes_on_ends_in_the_same_place(config: Config, batches: list[Tensor], at: int) -> None:
    torch.manual_seed(7)
    whole = trained(config, batches)
    broken = trained_with_a_break(config, batches, at=at)
    for name in set(whole) - {"features"}:
        for key, tensor in whole[name].state_dict().items():
            torch.testing.assert_close(broken[name].state_dict()[key], tensor, rtol=0, atol=0)


def test_two_workers_are_one_that_sees_all(batches: list[Tensor]) -> None:
    joined = [torch.cat(batches[:2]), torch.cat(batches[2:])]
    tiles = to_pixels(smooth_pictures(9))
    expected = build_detector(RESIDUAL, trained(RESIDUAL, joined))(tiles).score
    for networks in trained_together(RESIDUAL, [batches[::2], batches[1::2]]):
        np.testing.assert_allclose(build_detector(RESIDUAL, networks)(tiles).score, expected, rtol=1e-3)


def test_phases(batches: list[Tensor]) -> None:
    assert build_trainee(GAUSSIAN, build_networks(GAUSSIAN)).phases == ("moments",)
    trainee = build_trainee(MIXTURE, build_networks(MIXTURE))
    assert [trainee.phase(p) for p in (0.0, 0.49, 0.5, 0.99)] == ["moments", "moments", "sample", "sample"]


def test_what_was_not_fitted_shows_in_each_score() -> None:
    tiles = to_pixels(smooth_pictures(3))
    for config in EVERY:
        assert np.isnan(build_detector(config, build_networks(config))(tiles).score).all()


def test_tiles_that_do_not_suffice_are_refused_in_words(batches: list[Tensor]) -> None:
    alike = [batches[0][:1].expand(20, -1, -1, -1)] * 4
    for config in (RESIDUAL, MIXTURE):
        with pytest.raises(UnsuitableTilesError, match="the features of the tiles"):
            trained(config, alike)
    with pytest.raises(UnsuitableTilesError, match="2 vectors of features were seen, 6 are needed"):
        trained(MIXTURE, [*batches[:1], batches[1][:2]])


def test_more_components_than_channels_are_refused() -> None:
    with pytest.raises(InputError, match="40 channels of features: components 40 is too many"):
        build_networks(RESIDUAL.model_copy(update={"components": 40}))


@pytest.mark.parametrize(
    "values", [{"components": 4}, {"density": "residual"}, {"density": "mixture"}, {"gaussians": 10**6}]
)
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"kind": "mahalanobis", "features": {"kind": "nuclei"}} | values)
