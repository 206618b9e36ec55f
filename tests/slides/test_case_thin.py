"""Thin slides: one factor along x and another along y."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from slides.case_files import MPP, SPEC, open_path, shrunk, write_tiff
from slides.tiff_files import page, picture

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.slide import Slide
from uadray.slides.tile_reading import read_tile, tile_places
from uadray.tiles.plan import plan_slide


def _shift(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Pixels by which `found` lies beside `expected`, along x and y."""
    grey = [image.astype(np.float64).mean(2) for image in (expected, found)]
    return cv2.phaseCorrelate(*grey, cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_64F))[0]


def _assert_in_place(slide: Slide, n: int) -> None:
    """The end of the slide, at n times level 0's pixels, is where level 0 has it."""
    width, height = slide.level_sizes_px[0]
    side = min(height, width) // n
    x, y = (n * (whole // n - side) for whole in (width, height))
    fine = slide.read_region(0, x, y, n * side, n * side)
    found = read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=n * slide.mpp, tile_px=side)
    assert tile_places(slide, [x], [y], mpp=n * slide.mpp, tile_px=side).level > 0
    shift = _shift(found, shrunk(fine, n))
    assert np.abs(shift).max() < 0.6, shift  # a pixel of the level, which may have rounded an edge away


@pytest.mark.parametrize("size", [(8000, 151), (151, 8000), (5003, 77)], ids=str)
def test_the_far_end_of_a_thin_slide_is_where_it_is(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    grain = cv2.resize(rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8), (width, height))
    path = write_pyramid(tmp_path / "s.tif", grain, mpp=0.25, tile_px=128, downsamples=(2, 4))
    with open_path(path) as slide:
        for n in (3, 5):
            _assert_in_place(slide, n)


def test_a_scale_that_is_no_whole_number_is_taken_along_each_side(tmp_path: Path) -> None:
    """Two thirds of a slide's width, and of 100 rows 67."""
    image = picture(100, 1500)
    size = (1000, 67)
    pages = [page(image, **MPP), page(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), reduced=True)]
    with open_path(write_tiff(tmp_path / "s.tif", pages)) as slide:
        assert slide.downsamples == ((1.0, 1.0), (1.5, 100 / 67))
        places = tile_places(slide, [750], [0], mpp=0.75, tile_px=64)
    assert (places.level, places.boxes.tolist()) == (1, [[500, 0, 64, 65]])
    assert places.steps == pytest.approx((1, 1.005))


def test_case_thin_slide(data_dir: Path) -> None:
    """Red rises along x, by 0.016 a pixel of level 0, blue along y by 0.84."""
    with open_path(data_dir / "cases" / "16_thin_slide" / "thin_16000.tif") as slide:
        for n in (2, 3, 4, 5, 8):
            tile = read_tile(slide, x_level0_px=15_700, y_level0_px=20, mpp=0.25 * n, tile_px=32)
            fine = slide.read_region(0, 15_700, 20, 32 * n, 32 * n)
            beside_px = (tile.mean((0, 1)) - fine.mean((0, 1)))[[0, 2]] / (255 / 16_000, 255 / 303)
            assert np.abs(beside_px[0]) < 6 + n, "colours of JPEG are as good as 0.1 grey levels"
            assert np.abs(beside_px[1]) < 1
        plan = plan_slide(slide, etag="", spec=SPEC.model_copy(update={"quality": None}))
        assert plan.tiles["x_level0_px"].to_numpy().max() > 15_000
