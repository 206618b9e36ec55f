"""`bench screen`: that it screens what it says it does, and computes its rate right. Goals are not for tests."""

import os
from pathlib import Path

import pytest

from uadray.bench import screen, slides
from uadray.bench.screen_limit import tissue_tiles
from uadray.bench.slides import DPA, TINY
from uadray.config import load_config
from uadray.detectors.bundle import read_bundle
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
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's about its own settings
def test_a_screening_with_the_stand_in_scores_every_tile(slide: Path, tmp_path: Path, ray_cluster: None) -> None:
    slides.write_tiny_bundle(str(tmp_path / "bundle"))
    bundle = read_bundle(str(tmp_path / "bundle"))
    rows = slides.upload_copies(slide, str(tmp_path / "slides"), 2)
    runs, cpu = screen._screened("gpu", str(tmp_path), str(tmp_path / "out"), bundle, rows, (1, 2), os.getpid())
    n = len(tissue_tiles(slide, bundle.tiles))
    assert [tiles for tiles, _ in runs] == [n, 2 * n]
    assert {"driver", "reader", "server"} <= cpu.keys()


def test_the_tiny_detector_reads_every_tile(slide: Path) -> None:
    tiles = TrainConfig.model_validate({"name": "tiny", **TINY}).tiles
    assert len(tissue_tiles(slide, tiles)) == (2048 // tiles.tile_px) ** 2
