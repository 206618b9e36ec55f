"""Thumbnails."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from slides.coloured_slides import coloured_picture

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail


def test_thumbnail(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        image, mpp = thumbnail(slide)
    assert image.shape == (64, 96, 3)
    assert mpp == pytest.approx(4.0)
    expected = cv2.resize(coloured_picture(512, 768), (96, 64), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(image.astype(int) - expected).mean() < 3


def test_thumbnail_in_strips_is_the_same(tmp_path: Path) -> None:
    """A slide without pyramid, tall enough for several strips, has no seams: its grey rises from top to bottom."""
    ramp = np.linspace(20, 220, 9000).round().astype(np.uint8)
    tall = np.broadcast_to(ramp[:, None, None], (9000, 2000, 3))
    path = write_pyramid(tmp_path / "tall.tif", np.ascontiguousarray(tall), mpp=4.0, tile_px=512, downsamples=())
    with open_slide(path, slide_id="s") as slide:
        image, mpp = thumbnail(slide)
    assert image.shape == (4096, 910, 3)
    assert mpp == pytest.approx(4.0 * 9000 / 4096, rel=1e-3)
    rows = image.astype(float).mean((1, 2))
    assert np.abs(rows - (20 + 200 * (np.arange(4096) + 0.5) / 4096)).max() < 1.5


@pytest.mark.parametrize(("mpp", "shape"), [(0.2525, (128, 192, 3)), (0.25, (128, 192, 3)), (0.245, (125, 188, 3))])
def test_a_level_that_is_hardly_too_coarse_is_taken_as_it_is(
    tmp_path: Path, mpp: float, shape: tuple[int, int, int]
) -> None:
    """16 x 0.2525 is 4.04 um; with levels of 4 and 16 the next finer one would be 1.01 um."""
    picture = coloured_picture(2048, 3072)
    path = write_pyramid(tmp_path / "s.tif", picture, mpp=mpp, downsamples=(4, 16))
    with open_slide(path, slide_id="s") as slide:
        image, found = thumbnail(slide)
        whole = slide.read_region(2, 0, 0, *slide.level_sizes_px[2])
    assert image.shape == shape
    assert found == pytest.approx(mpp * 3072 / shape[1])
    assert (image.shape == whole.shape and bool((image == whole).all())) == (mpp >= 0.25)
