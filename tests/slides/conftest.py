"""A slide that several of these tests look at."""

from pathlib import Path

import pytest
from slides.coloured_slides import coloured_picture

from uadray.phantoms.pyramid import write_pyramid


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    return write_pyramid(tmp_path / "slide.tif", coloured_picture(512, 768), mpp=0.5, tile_px=128, downsamples=(2, 4))
