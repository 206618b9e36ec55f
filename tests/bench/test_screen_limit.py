"""The limit of `bench screen` decodes what a screening would, and no more."""

from pathlib import Path

import pytest

from uadray.bench import slides
from uadray.bench.screen_limit import encoded_tiles, tissue_tiles
from uadray.bench.slides import gpu_tiles


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slides.write_slide(tmp_path_factory.mktemp("bench") / "slide.tif", repeats=2, phantom_px=1024)


def test_bare_decoding_decodes_each_wanted_tile_once(slide: Path) -> None:
    tiles = tissue_tiles(slide, gpu_tiles())
    assert 10 < len(tiles) < 64  # the glass is left out
    assert len(encoded_tiles(slide, tiles, gpu_tiles())) == len(tiles)
