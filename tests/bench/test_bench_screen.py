"""`bench screen`: that it screens what it says it does, and computes its rate right. Goals are not for tests."""

import os
from pathlib import Path

import numpy as np
import pytest

from uadray.bench import screen, slides
from uadray.bench.screen_limit import tissue_tiles
from uadray.bench.slides import DPA, TINY, gpu_tiles
from uadray.bench.stand_in import load_of
from uadray.config import load_config
from uadray.detectors.bundle import Bundle, read_bundle
from uadray.errors import InputError
from uadray.training.config import TrainConfig

CONFIG = Path(__file__).parents[2] / "configs" / "train" / "dpa.yaml"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slides.write_slide(tmp_path_factory.mktemp("bench") / "slide.tif", repeats=2, phantom_px=1024)


def test_the_real_case_is_the_configuration_that_is_shipped() -> None:
    shipped = load_config(TrainConfig, str(CONFIG), [])
    ours = TrainConfig.model_validate({"name": "bench", **DPA})
    assert (ours.detector, ours.tiles) == (shipped.detector, shipped.tiles)


def test_the_rate_is_that_of_the_further_work() -> None:
    rate, startup_s = screen._slope([(1000, 15.0), (3000, 25.0)])  # 10 s before the first tile, then 200 a second
    assert (rate, startup_s) == (pytest.approx(200), pytest.approx(10))


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's about its own settings
def test_a_screening_with_the_stand_in_scores_every_tile(slide: Path, tmp_path: Path, ray_cluster: None) -> None:
    slides.write_tiny_bundle(str(tmp_path / "bundle"))
    bundle = read_bundle(str(tmp_path / "bundle"))
    rows = slides.upload_copies(slide, str(tmp_path / "slides"), 2)
    runs, cpu = screen._screened("exact", str(tmp_path), str(tmp_path / "out"), bundle, rows, (1, 2), os.getpid())
    n = len(tissue_tiles(slide, bundle.tiles))
    assert [tiles for tiles, _ in runs] == [n, 2 * n]
    assert {"driver", "reader", "scorer", "server"} <= cpu.keys()


def test_every_goal_that_was_measured_counts() -> None:
    good = {"over_limit": 0.5, "over_openslide": 3.0, "cpu_ms_per_tile": 0.5}
    assert screen._is_met("exact", good)  # without cucim its goal does not count
    assert not screen._is_met("exact", good | {"over_cucim": 0.9})
    assert not screen._is_met("exact", good | {"cpu_ms_per_tile": 0.6})
    assert screen._is_met("0.2525", {"over_limit": 0.01})


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(InputError, match=r"no case 0\.5; there are: exact, 0\.4990, 0\.2525, host, real"):
        screen.run(only=["0.5"])


def test_the_work_of_the_host_gives_finite_scores_and_pictures() -> None:
    bundle = Bundle.model_construct(tiles=gpu_tiles())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), np.uint8)
    scored = load_of("host")("", bundle)(pixels)
    np.testing.assert_allclose(scored.score, pixels[:, :8, :8].mean((1, 2, 3)) / 127.5 - 1, atol=1e-6)
    seen, shown = scored.pictures([2, 0])
    np.testing.assert_array_equal(shown, seen)


def test_the_tiny_detector_reads_every_tile(slide: Path) -> None:
    tiles = TrainConfig.model_validate({"name": "tiny", **TINY}).tiles
    assert len(tissue_tiles(slide, tiles)) == (2048 // tiles.tile_px) ** 2
