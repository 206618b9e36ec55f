"""A detector with a clock around its stages: the same scores, and seconds that fit into those that went by."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import load_detector, write_bundle
from uadray.detectors.detector import Detector
from uadray.detectors.stage_clock import StageClock, clocked
from uadray.tiles.images import Pixels
from uadray.tiles.spec import TileSpec


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    torch.manual_seed(0)
    config = fanogan.Config(kind="fanogan", input_px=32, width=8, latent_dim=8)
    uri = str(tmp_path_factory.mktemp("bundle"))
    write_bundle(uri, build_networks(config), name="t", detector=config, tiles=TileSpec(mpp=1, tile_px=32))
    return load_detector(uri)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)


def test_the_scores_are_the_same_and_the_seconds_are_those_of_the_stages(detector: Detector, pixels: Pixels) -> None:
    clock = StageClock()
    timed = clocked(detector, clock)
    began = time.perf_counter()
    scores = timed(pixels).score
    went_by = time.perf_counter() - began
    seconds = clock.take()
    assert (scores == detector(pixels).score).all()
    assert all(value > 0 for value in seconds.values())
    assert 0.3 * went_by < sum(seconds.values()) < went_by
    assert clock.take() == {"map": 0.0, "reconstruct": 0.0, "score": 0.0}


def test_threads_share_a_clock() -> None:
    clock = StageClock()
    slow = clock.around("map", lambda: time.sleep(0.05), torch.device("cpu"))
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(slow) for _ in range(8)]:
            future.result()
    assert 0.4 <= clock.take()["map"] < 0.8
