"""The peers of `bench screen` see the same pixels."""

from pathlib import Path

import numpy as np
import pytest

from uadray.bench import slides
from uadray.bench.screen_limit import tissue_tiles
from uadray.bench.screen_peer import PeerTiles, peers
from uadray.bench.slides import DPA, gpu_tiles
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import read_tile
from uadray.training.config import TrainConfig


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slides.write_slide(tmp_path_factory.mktemp("bench") / "slide.tif", repeats=2, phantom_px=1024)


@pytest.mark.parametrize("peer", peers())
@pytest.mark.parametrize("kind", ["real", "gpu"])
def test_the_peers_see_the_same_pixels(slide: Path, kind: str, peer: str) -> None:
    spec = gpu_tiles() if kind == "gpu" else TrainConfig.model_validate({"name": "bench", **DPA}).tiles
    tiles = tissue_tiles(slide, spec)
    corners = list(zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True))
    dataset = PeerTiles([slide, slide], spec, peer=peer)
    assert len(dataset) == 2 * len(tiles)
    with open_slide(slide, slide_id="s") as opened:
        for i in (0, len(corners) - 1):
            x, y = corners[i]
            ours = read_tile(opened, x_level0_px=x, y_level0_px=y, mpp=spec.mpp, tile_px=spec.tile_px)
            np.testing.assert_array_equal(dataset[len(corners) + i].numpy(), ours)


@pytest.mark.parametrize("case", ["0.4990", "0.2525"])
def test_at_other_pixel_sizes_they_see_nearly_the_same(tmp_path: Path, case: str) -> None:
    mpp, asked = slides.MPP_CASES[case]
    path = slides.write_slide(tmp_path / "slide.tif", repeats=1, phantom_px=2048, mpp=mpp)
    spec = gpu_tiles(asked)
    tiles = tissue_tiles(path, spec)
    theirs = PeerTiles([path], spec, n_tiles=3 * len(tiles), peer="openslide")[len(tiles)].numpy()
    x, y = (tiles[name][0].as_py() for name in ("x_level0_px", "y_level0_px"))
    with open_slide(path, slide_id="s") as opened:
        place = {"x_level0_px": x, "y_level0_px": y}
        ours = read_tile(opened, **place, mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser)
    assert np.abs(theirs.astype(int) - ours).mean() < 5  # grey levels; another tile differs by thirty and more
