"""The end-to-end benchmarks: that they compare the same work, count right and clean up. Goals are not for tests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from uadray.bench import memory, processes, screen, slides
from uadray.bench.slides import DPA, TINY, gpu_tiles
from uadray.config import load_config
from uadray.detectors.bundle import read_bundle
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import read_tile
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


def test_bare_decoding_decodes_each_wanted_tile_once(slide: Path) -> None:
    tiles = screen._places(slide, gpu_tiles())
    assert 10 < len(tiles) < 64  # the glass is left out
    assert len(screen._jpegs(slide, tiles, gpu_tiles())) == len(tiles)


@pytest.mark.parametrize("kind", ["real", "gpu"])
def test_the_peer_sees_the_same_pixels(slide: Path, kind: str) -> None:
    spec = gpu_tiles() if kind == "gpu" else TrainConfig.model_validate({"name": "bench", **DPA}).tiles
    tiles = screen._places(slide, spec)
    corners = list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))
    dataset = screen.OpenSlideTiles([slide, slide], 0 if kind == "gpu" else 1, corners, spec.tile_px)
    assert len(dataset) == 2 * len(tiles)
    with open_slide(slide, slide_id="s") as opened:
        for i in (0, len(corners) - 1):
            x, y = corners[i]
            ours = read_tile(opened, x_level0_px=x, y_level0_px=y, mpp=spec.mpp, tile_px=spec.tile_px)
            np.testing.assert_array_equal(dataset[len(corners) + i].numpy(), ours)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's about its own settings
def test_a_screening_with_the_stand_in_scores_every_tile(slide: Path, tmp_path: Path, ray_cluster: None) -> None:
    slides.write_tiny_bundle(str(tmp_path / "bundle"))
    bundle = read_bundle(str(tmp_path / "bundle"))
    rows = slides.upload_copies(slide, str(tmp_path / "slides"), 2)
    runs, cpu = screen._screened("gpu", str(tmp_path), str(tmp_path / "out"), bundle, rows, (1, 2), os.getpid())
    n = len(screen._places(slide, bundle.tiles))
    assert [tiles for tiles, _ in runs] == [n, 2 * n]
    assert {"driver", "reader", "server"} <= cpu.keys()


@pytest.fixture
def child() -> Iterator[int]:
    """A process with Ray's title of a reader, 100 MB and a child of its own."""
    code = "import subprocess, time; data = bytearray(b'x') * 10**8; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    process = subprocess.Popen(["ray::Readslides->SplitBlocks(4)", "-c", code], executable=sys.executable)
    while len(processes.descendants(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    yield process.pid
    subprocess.run(["pkill", "-P", str(process.pid)], check=True)
    process.kill()
    process.wait()


def test_memory_is_counted_by_what_processes_are_for(child: int) -> None:
    assert processes.role(child) == "reader"
    assert processes.titled(os.getpid(), processes.READER) == [child]
    assert processes.peak_rss(child) > 10**8
    sizes = memory._by_role(os.getpid())
    assert 1e8 < sizes["reader"] < 2e8
    assert sizes["job"] == sum(size for name, size in sizes.items() if name not in ("job", "object_store"))


def test_the_tiny_detector_reads_every_tile(slide: Path) -> None:
    tiles = TrainConfig.model_validate({"name": "tiny", **TINY}).tiles
    assert len(screen._places(slide, tiles)) == (2048 // tiles.tile_px) ** 2
