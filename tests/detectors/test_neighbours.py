"""Neighbours: scores beside scikit-learn's, the coreset, the phases of a training, resumed and shared among workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lockstep import trained, trained_together, trained_with_a_break
from networks_watch import smooth_pictures
from pydantic import ValidationError
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor

from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.densities.projected import ProjectedFeatures
from uadray.detectors.features.frozen import BackboneConfig, NucleiConfig
from uadray.detectors.neighbours import Config, NeighbourScore
from uadray.detectors.pixels import to_input, to_pixels
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.errors import InputError
from uadray.networks.outline import Networks
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("torch_alone")

TILES = BackboneConfig(kind="backbone", layers=("block4",))
CELLS = BackboneConfig(kind="backbone", layers=("block0", "block2"), pooling="cells")
KNN = Config(kind="neighbours", input_px=16, features=TILES, neighbours=3)
LOF = Config(kind="neighbours", input_px=16, features=TILES, measure="lof", neighbours=5, components=6)
CORESET = Config(kind="neighbours", input_px=16, features=CELLS, components=8, candidates=60, bank=20, reweigh=True)


@pytest.fixture
def batches() -> list[Tensor]:
    """Four of 16 pictures."""
    return list(smooth_pictures(64).split(16))


def vectors(config: Config, networks: Networks, x: Tensor) -> np.ndarray:
    """[N, d] Of tiles, as they are compared."""
    z = ProjectedFeatures(networks, is_projected=config.components is not None)(x)
    return z[:, :, 0, 0].double().numpy()


@torch.no_grad()
def test_distances_are_those_of_scikit_learn(batches: list[Tensor]) -> None:
    networks, queries = trained(KNN, batches), smooth_pictures(9)
    judge = NearestNeighbors(n_neighbors=3).fit(vectors(KNN, networks, torch.cat(batches)))
    tiles = to_pixels(queries)
    expected = judge.kneighbors(vectors(KNN, networks, to_input(tiles, 16)))[0].mean(1)
    np.testing.assert_allclose(build_detector(KNN, networks)(tiles).score, expected, rtol=1e-4)


@torch.no_grad()
def test_local_outlier_factors_are_those_of_scikit_learn(batches: list[Tensor]) -> None:
    networks, queries = trained(LOF, batches), smooth_pictures(9)
    seen = vectors(LOF, networks, torch.cat(batches[2:]))
    assert len(seen) == int(networks["bank"].get_buffer("count")), "the bank is of the second half"
    judge = LocalOutlierFactor(n_neighbors=5, novelty=True).fit(seen)
    tiles = to_pixels(queries)
    expected = -judge.score_samples(vectors(LOF, networks, to_input(tiles, 16)))
    np.testing.assert_allclose(build_detector(LOF, networks)(tiles).score, expected, rtol=1e-4)


@torch.no_grad()
def test_whitened_features_have_variance_1(batches: list[Tensor]) -> None:
    networks = trained(LOF, batches)
    seen = vectors(LOF, networks, torch.cat(batches[:2]))
    np.testing.assert_allclose(np.cov(seen.T, bias=True), np.eye(6), atol=1e-3)


def test_a_tiles_score_is_told_from_the_highest_of_its_cells(batches: list[Tensor]) -> None:
    config = CORESET.model_copy(update={"reweigh": False})
    networks = trained(config, batches)
    assert int(networks["bank"].get_buffer("count")) == 20
    tiles = to_pixels(smooth_pictures(5))
    for share, cells in ((0.0, 1), (0.25, 4), (1.0, 16)):
        scored = build_detector(config.model_copy(update={"top_share": share}), networks)(tiles)
        maps = scored.maps(range(5)).reshape(5, 16)
        np.testing.assert_allclose(scored.score, np.sort(maps, 1)[:, -cells:].mean(1), rtol=1e-5)


def test_the_weight_is_that_of_the_paper(batches: list[Tensor]) -> None:
    networks = trained(CORESET, batches)
    bank = networks["bank"]
    rows = bank.rows(9).double().numpy()  # type: ignore[operator]
    z = 2 * torch.randn(7, 8, 1, 1)
    for query, score in zip(z[:, :, 0, 0].double().numpy(), NeighbourScore(CORESET, bank)(z, None, z)[0], strict=True):
        distance = np.linalg.norm(rows - query, axis=1)
        around = np.argsort(np.linalg.norm(rows - rows[distance.argmin()], axis=1))[:9]
        weight = 1 - np.exp(distance.min()) / np.exp(distance[around]).sum()
        assert float(score) == pytest.approx(weight * distance.min(), rel=1e-4)


def test_what_was_not_seen_lies_far(batches: list[Tensor]) -> None:
    detector = build_detector(KNN, trained(KNN, batches))
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    assert detector(noise).score.min() > detector(to_pixels(smooth_pictures(20))).score.max()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_training_that_goes_on_ends_in_the_same_bank(batches: list[Tensor], at: int) -> None:
    whole, broken = trained(CORESET, batches), trained_with_a_break(CORESET, batches, at=at)
    for name in ("moments", "projection", "bank"):
        for key, tensor in whole[name].state_dict().items():
            torch.testing.assert_close(broken[name].state_dict()[key], tensor, rtol=0, atol=0, equal_nan=True)


def test_two_workers_project_as_one_that_sees_all(batches: list[Tensor]) -> None:
    one = trained(LOF, [torch.cat(batches[:2]), torch.cat(batches[2:])])
    two = trained_together(LOF, [batches[::2], batches[1::2]])
    for networks in two:
        for key in ("mean", "matrix"):
            expected = one["projection"].get_buffer(key)
            torch.testing.assert_close(
                networks["projection"].get_buffer(key).abs(), expected.abs(), rtol=1e-3, atol=1e-4
            )


def test_features_are_those_of_scoring_whatever_a_training_lowers(batches: list[Tensor]) -> None:
    exact, bits = trained(LOF, batches), torch.backends.cuda.matmul.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        lowered = trained(LOF, batches)
    assert torch.backends.cuda.matmul.allow_tf32 == bits
    for key, tensor in exact["bank"].state_dict().items():
        torch.testing.assert_close(lowered["bank"].state_dict()[key], tensor, rtol=0, atol=0, equal_nan=True)


def test_phases_and_what_is_reported(batches: list[Tensor]) -> None:
    assert build_trainee(KNN, build_networks(KNN)).phases == ("bank",)
    trainee = build_trainee(LOF, build_networks(LOF))
    trainee.prepare(batches[0])
    assert [trainee.phase(p) for p in (0.0, 0.49, 0.5, 0.99)] == ["moments", "moments", "bank", "bank"]
    assert float(trainee.step(batches[0], 0.0)["deviation"]) > 0
    assert float(trainee.step(batches[0], 0.5)["size"]) == pytest.approx(1, rel=0.01)


def test_too_few_tiles_are_refused_in_words(batches: list[Tensor]) -> None:
    trainee = build_trainee(KNN, build_networks(KNN))
    trainee.step(batches[0][:3], 0.0)
    with pytest.raises(UnsuitableTilesError, match="3 vectors of features were seen, 4 are needed"):
        trainee.finish()


def test_a_bank_that_was_not_fitted_gives_no_score() -> None:
    with pytest.raises(InputError, match="a bank of 0 rows"):
        build_detector(KNN, build_networks(KNN))


def test_a_bundle_keeps_it(batches: list[Tensor], tmp_path: Path) -> None:
    networks, tiles = trained(CORESET, batches), to_pixels(smooth_pictures(4))
    uri = str(tmp_path / "bundle")
    write_bundle(uri, networks, detector=CORESET, name="toy", tiles=TileSpec(mpp=1.0, tile_px=16))
    assert read_bundle(uri).detector == CORESET
    here, there = build_detector(CORESET, networks)(tiles).score, load_detector(uri)(tiles).score
    np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(
    "values",
    [
        {"measure": "lof", "bank": 100},
        {"measure": "lof", "reweigh": True},
        {"neighbours": 50, "candidates": 50},
        {"neighbours": 50, "bank": 20},
        {"bank": 5, "reweigh": True},
        {"candidates": 10**9},
        {"components": 10**6},
    ],
)
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"kind": "neighbours", "features": {"kind": "nuclei"}} | values)


def test_the_mpp_of_nuclei_is_that_of_the_tiles() -> None:
    nuclei = Config(kind="neighbours", features=NucleiConfig(kind="nuclei", mpp=0.5))
    run = {"name": "toy", "detector": nuclei, "tiles": {"mpp": 0.972, "tile_px": 96}}
    with pytest.raises(ValidationError, match=r"detector.mpp 0.5 is not tiles.mpp 0.972"):
        TrainConfig.model_validate(run)
