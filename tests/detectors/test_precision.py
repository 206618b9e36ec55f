"""bfloat16 is taken where it is fast, and refused where it changes scores."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_search import CountedSearch, searching

from uadray.detectors import dpa, fanogan, precision
from uadray.detectors.building import build_detector, build_networks
from uadray.detectors.detector import Detector
from uadray.detectors.precision import TOLERANCE, LoweredScore, check_tiles, lower_precision

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = dpa.Config(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block1"))
GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4, kappa=0.5)


def fast(device: torch.device) -> bool:
    """As a processor with the instructions answers; torch computes bfloat16 on any."""
    return True


@pytest.mark.parametrize("config", [DPA, GAN], ids=["dpa", "fanogan"])
def test_scores_stay_within_the_tolerance(monkeypatch: pytest.MonkeyPatch, config: dpa.Config | fanogan.Config) -> None:
    monkeypatch.setattr(precision, "is_fast", fast)
    torch.manual_seed(0)
    detector = build_detector(config, build_networks(config))
    tiles = np.random.default_rng(0).integers(0, 256, (32, 24, 24, 3), np.uint8)  # not those of the check
    expected = detector(tiles).score
    assert lower_precision(detector, tile_px=24)
    found = detector(tiles)
    difference = np.abs(found.score - expected).max()
    assert 0 < difference < 2 * TOLERANCE * np.abs(expected).mean()
    assert found.maps([0]).dtype == np.float32


def brittle(x: Tensor, x_hat: Tensor | None, z: Any) -> tuple[Tensor, Tensor]:
    """A score that is the small difference of two products."""
    flat = x.flatten(1)
    ones = torch.ones(flat.shape[1], 1)
    return (flat @ ones).squeeze(1) - flat.sum(1) + 1e-3, x.mean(1)


def test_a_score_that_bfloat16_changes_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_fast", fast)
    detector = Detector(lambda x: x, lambda z: None, brittle, input_px=16, device=torch.device("cpu"))
    assert not lower_precision(detector, tile_px=16)
    assert detector.score is brittle


class Features:
    """A network in the stage `map` of a detector without a picture."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 8, 3)

    def __call__(self, x: Tensor) -> Tensor:
        z: Tensor = self.layer(x)
        return z


@pytest.mark.parametrize(("offset", "is_lowered"), [(10.0, True), (0.0, False)])
def test_a_network_in_the_map_is_lowered_where_scores_allow_it(
    monkeypatch: pytest.MonkeyPatch, offset: float, is_lowered: bool
) -> None:
    monkeypatch.setattr(precision, "is_fast", fast)

    def score(x: Tensor, x_hat: Tensor | None, z: Any) -> tuple[Tensor, Tensor]:
        assert z.dtype == torch.float32
        return offset + 1e-3 + (z - mapping.layer(x)).abs().mean((1, 2, 3)), z.mean(1)

    mapping = Features()
    detector = Detector(mapping, lambda z: None, score, input_px=16, device=torch.device("cpu"), has_picture=False)
    expected = detector(check_tiles(16)).score
    lower_precision(detector, tile_px=16)
    assert (detector.mapping is not mapping) == is_lowered
    assert np.abs(detector(check_tiles(16)).score - expected).max() <= TOLERANCE * np.abs(expected).mean()


def test_a_search_is_made_once_for_the_check_and_stays_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_fast", fast)
    search = CountedSearch()
    detector = searching(search)
    assert lower_precision(detector, tile_px=16)
    assert isinstance(detector.score, LoweredScore)
    assert detector.mapping is search
    assert search.tiles == precision.CHECK_TILES


def test_a_processor_without_bfloat16_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_fast", lambda device: False)
    detector = build_detector(GAN, build_networks(GAN))
    assert not lower_precision(detector, tile_px=16)
    assert not isinstance(detector.score, LoweredScore)


def test_the_tiles_of_the_check_are_always_the_same_and_not_flat() -> None:
    tiles = check_tiles(40)
    assert tiles.shape == (8, 40, 40, 3)
    assert tiles.std((1, 2)).min() > 10
    np.testing.assert_array_equal(tiles, check_tiles(40))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: what runs on one was not tested")
@pytest.mark.parametrize("config", [DPA, GAN], ids=["dpa", "fanogan"])
def test_bfloat16_on_a_gpu_is_within_the_tolerance_of_a_cpu(config: dpa.Config | fanogan.Config) -> None:
    torch.manual_seed(0)
    networks = build_networks(config)
    tiles = np.random.default_rng(0).integers(0, 256, (70, 24, 24, 3), np.uint8)
    expected = build_detector(config, copy.deepcopy(networks))(tiles).score
    detector = build_detector(config, networks, device="cuda")
    lower_precision(detector, tile_px=24)
    assert np.abs(detector(tiles).score - expected).max() < 2 * TOLERANCE * np.abs(expected).mean()
