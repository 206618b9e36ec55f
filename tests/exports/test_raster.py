"""A picture of scores: which pixel is whose, and how coarse it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictured_slides import SCALE, pictured, place

from uadray.errors import SlideError
from uadray.exports.exported_slide import ExportOptions
from uadray.exports.raster import NO_SCORE, Raster, painted, power_of_two, raster, rgb, rgba
from uadray.tiles.spec import TileSpec

LEVEL0 = ExportOptions()


def test_tile_is_eight_to_sixteen_pixels() -> None:
    assert [power_of_two((1000, 1000), side) for side in (7, 16, 127, 128, 255)] == [1, 2, 8, 16, 16]


def test_large_slide_is_bounded() -> None:
    slide = pictured((200_000, 200_000), spec=TileSpec(mpp=0.5, tile_px=4000, quality=None))
    picture = raster(slide, LEVEL0, max_pixels=10_000)
    assert picture.scores.size <= 10_000
    assert picture.downsample == 2048
    assert not np.isnan(picture.scores).any()


def test_whole_number_of_pixels_a_tile() -> None:
    slide = pictured((960, 480), mpp=0.5, spec=TileSpec(mpp=0.5, tile_px=96, quality=None), marker=13)
    picture = raster(slide, LEVEL0)
    assert (picture.downsample, picture.scores.shape) == (8, (60, 120))
    assert place(slide, 13) == (288, 96, 96, 96)
    marked = np.argwhere(picture.scores == 1)
    assert (marked.min(0).tolist(), marked.max(0).tolist(), len(marked)) == ([12, 36], [23, 47], 144)


@settings(max_examples=12, deadline=None)
@given(st.floats(0.2, 1.0), st.integers(20, 90), st.integers(300, 900), st.integers(300, 900))
def test_tiles_leave_no_gap(mpp: float, tile_px: int, width: int, height: int) -> None:
    slide = pictured((width, height), mpp=mpp, spec=TileSpec(mpp=0.5, tile_px=tile_px, min_tissue=0, quality=None))
    picture = raster(slide, LEVEL0)
    is_there = ~np.isnan(picture.scores)
    y, x = (np.arange(side) * picture.downsample + picture.downsample / 2 for side in is_there.shape)
    assert is_there[y < height][:, x < width].all()
    assert is_there.shape == (-(-height // picture.downsample), -(-width // picture.downsample))


def test_highest_score_is_seen() -> None:
    spec = TileSpec(mpp=0.5, tile_px=100, stride_px=50, quality=None)
    slide = pictured((800, 800), spec=spec, marker=40)
    x, y, width, height = place(slide, 40)
    scores, _ = painted(slide.tiles, shape=(800, 800), pixel_level0_px=(1, 1))
    assert np.argwhere(scores == 1).tolist()[0] == [y, x]
    assert (scores == 1).sum() == width * height


def test_bounds_are_the_picture_where_qupath_shows_them() -> None:
    slide = pictured(bounds=(1003, 507, 2001, 1500), marker=500)
    x, y, width, height = place(slide, 500)
    picture = raster(slide, ExportOptions(coordinates="qupath"))
    assert picture.region == (1003, 507, 2001, 1500)
    assert picture.size_px == (251, 188)
    marked = np.argwhere(picture.scores == 1)
    edges = np.concatenate([marked.min(0), marked.max(0) + 1]) * picture.downsample + [507, 1003, 507, 1003]
    assert np.abs(edges - [y, x, y + height, x + width]).max() <= picture.downsample / 2
    assert raster(slide, LEVEL0).region == (0, 0, 4000, 3000)


def test_size_that_nothing_tells_is_that_of_the_tiles() -> None:
    assert raster(pictured((4000, 3000), width_level0_px=None), LEVEL0).region == (0, 0, 4000, 3000)


def test_impossible_size_is_refused() -> None:
    with pytest.raises(SlideError, match="its decision says that it is 1099511627776 x 5 px"):
        raster(pictured((4000, 3000), width_level0_px=2**40, height_level0_px=5), LEVEL0)


def test_no_tiles_is_an_empty_picture() -> None:
    slide = pictured((400, 300))
    empty = type(slide)(slide.decision, slide.tiles.slice(0, 0), slide.spec, scale=SCALE)
    picture = raster(empty, LEVEL0)
    assert picture.scores.shape == (300, 400)
    assert np.isnan(picture.scores).all()


def test_coarser_levels_have_the_highest_of_four() -> None:
    scores = np.array([[1, np.nan, 3], [np.nan, 2, np.nan], [np.nan, np.nan, -5]], np.float32)
    unscored = np.array([[False, True, False], [False, False, True], [True, False, False]])
    coarser = Raster(scores, unscored, (0, 0, 3, 3), 1).halved()
    np.testing.assert_array_equal(coarser.scores, [[2, 3], [np.nan, -5]])
    np.testing.assert_array_equal(coarser.unscored, [[False, False], [True, False]])
    assert coarser.downsample == 2


def test_colours_tell_failure_from_score() -> None:
    slide = pictured((300, 100), marker=1, unscored=2)
    picture = raster(slide, LEVEL0)
    clear, opaque = rgba(picture, SCALE), rgb(picture, SCALE)
    assert clear[5, 30, :3].tolist() == list(NO_SCORE) == opaque[5, 30].tolist()
    assert clear[5, 5, 3] < clear[5, 15, 3] < 255
    assert opaque[5, 5].sum() > opaque[5, 15].sum()  # pale to dark
