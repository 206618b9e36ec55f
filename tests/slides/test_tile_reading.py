"""Tiles at an exact mpp: their pixels, whatever level they are read from."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from slides.coloured_slides import openslide_pixels

from uadray.errors import SlideError
from uadray.slides import openslide as openslide_module
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import finer_level, read_tile


@pytest.mark.parametrize(("x", "y"), [(0, 0), (100, 37), (704, 448)])
def test_level_0_is_openslides_own(slide_path: Path, x: int, y: int) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        tile = read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=0.5, tile_px=64)
    np.testing.assert_array_equal(tile, openslide_pixels(slide_path, 0, x, y, 64))


@pytest.mark.parametrize(("level", "mpp"), [(1, 1.0), (2, 2.0)])
def test_an_exact_pyramid_level_is_openslides_own(slide_path: Path, level: int, mpp: float) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        tile = read_tile(slide, x_level0_px=64, y_level0_px=128, mpp=mpp, tile_px=64)
    np.testing.assert_array_equal(tile, openslide_pixels(slide_path, level, 64, 128, 64))


def test_a_resampled_tile_shows_the_place_it_names(slide_path: Path) -> None:
    """0.8 um/px from 0.5: each output pixel is 1.6 level-0 pixels, and red and green tell where it was."""
    with open_slide(slide_path, slide_id="s") as slide:
        tile = read_tile(slide, x_level0_px=201, y_level0_px=99, mpp=0.8, tile_px=64).astype(float)
    x = 201 + (np.arange(64) + 0.5) * 1.6
    y = 99 + (np.arange(64) + 0.5) * 1.6
    assert np.abs(tile[:, :, 0].mean(0) - (x * 200 / 768 + 19.5)).max() < 2
    assert np.abs(tile[:, :, 1].mean(1) - (y * 200 / 512 + 19.5)).max() < 2


def test_between_levels_the_finer_one_is_averaged(slide_path: Path) -> None:
    """1.5 um/px takes level 1 (1.0): equal to the area mean of OpenSlide's own level-1 pixels."""
    with open_slide(slide_path, slide_id="s") as slide:
        assert [finer_level(slide, m) for m in (0.5, 0.99, 1.0, 1.5, 2.0, 9.0)] == [0, 0, 1, 1, 2, 2]
        tile = read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=1.5, tile_px=32)
    fine = np.repeat(np.repeat(openslide_pixels(slide_path, 1, 0, 0, 48).astype(float), 2, 0), 2, 1)
    expected = fine.reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.abs(tile - expected).max() <= 0.51


def test_a_level_a_little_too_coarse_is_interpolated(slide_path: Path) -> None:
    """0.98 um/px takes level 1 (1.0) where 3 % are allowed, and not where 2 %: what it shows stays where it is."""
    where = {"x_level0_px": 201, "y_level0_px": 99, "mpp": 0.98, "tile_px": 64}
    with open_slide(slide_path, slide_id="s") as slide:
        assert [finer_level(slide, 0.98, most) for most in (0.0, 0.02, 0.03)] == [0, 0, 1]
        assert [finer_level(slide, 1.96, most) for most in (0.02, 0.03)] == [1, 2]
        fine, coarse = (read_tile(slide, **where, max_coarser=most).astype(float) for most in (0.0, 0.03))
    x = 201 + (np.arange(64) + 0.5) * 1.96
    y = 99 + (np.arange(64) + 0.5) * 1.96
    assert np.abs(coarse[:, :, 0].mean(0) - (x * 200 / 768 + 19.5)).max() < 2
    assert np.abs(coarse[:, :, 1].mean(1) - (y * 200 / 512 + 19.5)).max() < 2
    assert np.abs(coarse - fine).mean() < 2


def test_outside_is_white(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        across = read_tile(slide, x_level0_px=736, y_level0_px=480, mpp=0.5, tile_px=64)
        beyond = read_tile(slide, x_level0_px=5000, y_level0_px=-400, mpp=0.5, tile_px=16)
        before = slide.read_region(0, -8, -8, 16, 16)
    assert (beyond == 255).all()
    assert (across[32:] == 255).all()
    assert (across[:, 32:] == 255).all()
    assert across[:32, :32].max() < 250
    assert (before[:8] == 255).all()
    np.testing.assert_array_equal(before[8:, 8:], openslide_pixels(slide_path, 0, 0, 0, 8))


def test_transparent_is_white_and_half_transparent_half_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [100, 0, 200, 51]]], np.uint8)
    mixed = openslide_module._on_white(rgba)
    # 51 of 255 is a fifth: 0.2 * 100 + 0.8 * 255 = 224, 204, 244
    assert mixed.tolist() == [[[255, 255, 255], [10, 20, 30], [224, 204, 244]]]


@pytest.mark.parametrize(("wanted", "fits"), [(0.46, True), (0.455, True), (0.45, False), (0.25, False)])
def test_too_coarse(slide_path: Path, wanted: float, fits: bool) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        if fits:
            assert read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=wanted, tile_px=32).shape == (32, 32, 3)
            return
        with pytest.raises(SlideError, match=r"level 0 has 0\.5 um/px") as caught:
            read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=wanted, tile_px=32)
    assert caught.value.reason == "too_coarse"


def test_one_broken_tile_leaves_the_others_readable(slide_path: Path) -> None:
    """An OpenSlide handle stays in error after the first one; the slide must not."""
    with tifffile.TiffFile(slide_path) as file:
        offset, count = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    data = bytearray(slide_path.read_bytes())
    data[offset : offset + count] = bytes(count)
    slide_path.write_bytes(data)
    with open_slide(slide_path, slide_id="s") as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match="pixels at") as caught:
                read_tile(slide, x_level0_px=128, y_level0_px=0, mpp=0.5, tile_px=128)
            assert caught.value.reason == "unreadable"
            tile = read_tile(slide, x_level0_px=256, y_level0_px=0, mpp=0.5, tile_px=128)
            np.testing.assert_array_equal(tile, openslide_pixels(slide_path, 0, 256, 0, 128))
