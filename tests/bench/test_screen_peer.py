"""The peer of `bench screen` sees the same pixels."""

from pathlib import Path

import numpy as np
import pytest

from uadray.bench import slides
from uadray.bench.screen_limit import tissue_tiles
from uadray.bench.screen_peer import OpenSlideTiles
from uadray.bench.slides import DPA, gpu_tiles
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import read_tile
from uadray.training.config import TrainConfig


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slides.write_slide(tmp_path_factory.mktemp("bench") / "slide.tif", repeats=2, phantom_px=1024)


@pytest.mark.parametrize("kind", ["real", "gpu"])
def test_the_peer_sees_the_same_pixels(slide: Path, kind: str) -> None:
    spec = gpu_tiles() if kind == "gpu" else TrainConfig.model_validate({"name": "bench", **DPA}).tiles
    tiles = tissue_tiles(slide, spec)
    corners = list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))
    dataset = OpenSlideTiles([slide, slide], 0 if kind == "gpu" else 1, corners, spec.tile_px)
    assert len(dataset) == 2 * len(tiles)
    with open_slide(slide, slide_id="s") as opened:
        for i in (0, len(corners) - 1):
            x, y = corners[i]
            ours = read_tile(opened, x_level0_px=x, y_level0_px=y, mpp=spec.mpp, tile_px=spec.tile_px)
            np.testing.assert_array_equal(dataset[len(corners) + i].numpy(), ours)
