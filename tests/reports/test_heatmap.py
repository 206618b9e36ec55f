"""Where tiles land in a thumbnail, and what a tile without a score looks like."""

import time

import cv2
import numpy as np
import pyarrow as pa
import pytest

from uadray.reports.colours import legend_colours, scale_colours
from uadray.reports.heatmap import heatmap, tile_windows
from uadray.reports.pictures import Image
from uadray.schemas import TILE_SCORES
from uadray.tiles.cells import with_cells


def tile_table(*tiles: tuple[int, int, int, int, float | None]) -> pa.Table:
    """Rows of TILE_SCORES from (x, y, width, height, score); a tile without a score has an error."""
    rows = [
        {
            "tile_id": f"s_{x}_{y}",
            "slide_id": "s",
            "x_level0_px": x,
            "y_level0_px": y,
            "width_level0_px": width,
            "height_level0_px": height,
            "tissue_fraction": 1.0,
            "band": "tissue",
            "score": score,
            "error": "unreadable" if score is None else None,
        }
        for x, y, width, height, score in tiles
    ]
    return pa.Table.from_pylist(rows, schema=TILE_SCORES)


def windows(
    *tiles: tuple[int, int, int, int, float | None], level0: tuple[int, int], px: tuple[int, int]
) -> list[list[int]]:
    return list(tile_windows(tile_table(*tiles), level0_size=level0, thumbnail_size=px).tolist())


def white(height: int, width: int) -> Image:
    return np.full((height, width, 3), 255, np.uint8)


def test_tile_windows_by_hand() -> None:
    # 1000 x 500 level-0 px in 100 x 50 px: ten to one.
    assert windows((0, 0, 100, 100, 1), (200, 300, 100, 50, 1), level0=(1000, 500), px=(100, 50)) == [
        [0, 0, 10, 10],
        [20, 30, 30, 35],
    ]
    # A pixel belongs to the tile that has its centre (5, 15, 25, ...): 4..15 has the centre 5, and not 15.
    assert windows((4, 0, 11, 10, 1), (15, 0, 11, 10, 1), level0=(1000, 500), px=(100, 50)) == [
        [0, 0, 1, 1],
        [1, 0, 3, 1],
    ]


def test_tile_windows_cut_at_the_slide_and_never_empty_inside() -> None:
    assert windows((950, 450, 100, 100, 1), level0=(1000, 500), px=(100, 50)) == [[95, 45, 100, 50]]
    # 2 px between the centres 35 and 45 cover none: the pixel they are in is taken.
    assert windows((38, 41, 2, 2, 1), level0=(1000, 500), px=(100, 50)) == [[3, 4, 4, 5]]
    x0, _, x1, _ = windows((1200, 0, 100, 100, 1), level0=(1000, 500), px=(100, 50))[0]
    assert x0 == x1


def test_tile_windows_of_a_grid_share_no_pixel_and_leave_none() -> None:
    tiles = [(x, y, 97, 97, 1.0) for y in range(0, 970, 97) for x in range(0, 1940, 97)]
    seen = np.zeros((113, 227), int)
    for x0, y0, x1, y1 in windows(*tiles, level0=(1940, 970), px=(227, 113)):
        seen[y0:y1, x0:x1] += 1
    assert (seen == 1).all()


def test_heatmap_paints_the_tile_and_nothing_else() -> None:
    tiles = tile_table((200, 100, 100, 100, 0.9))
    picture = heatmap(white(50, 100), tiles, level0_size=(1000, 500), low=0, high=1, threshold=None)
    touched = (picture != 255).any(axis=2)
    expected = np.zeros((50, 100), bool)
    expected[10:20, 20:30] = True
    assert picture.shape == (50, 100, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(touched, expected)


def test_heatmap_darkens_with_the_score_and_clips_beyond_the_scale() -> None:
    tiles = tile_table(*((x * 100, 0, 100, 100, score) for x, score in enumerate([-5.0, 0.0, 0.5, 1.0, 7.0])))
    picture = heatmap(white(10, 50), tiles, level0_size=(500, 100), low=0, high=1, threshold=None)
    light = [int(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[5, x * 10 + 5]) for x in range(5)]
    assert light[0] == light[1] > light[2] > light[3] == light[4]


def test_heatmap_shows_the_highest_of_overlapping_tiles() -> None:
    over = tile_table((0, 0, 100, 100, 0.9), (50, 0, 100, 100, 0.1))
    alone = tile_table((0, 0, 100, 100, 0.9))
    seen, expected = (
        heatmap(white(10, 20), tiles, level0_size=(200, 100), low=0, high=1, threshold=None) for tiles in (over, alone)
    )
    assert np.array_equal(seen[:, :10], expected[:, :10])


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_a_tile_without_a_number_is_hatched_and_ringed(score: float | None) -> None:
    tiles = tile_table((300, 300, 300, 300, score), (600, 300, 300, 300, 0.5))
    picture = heatmap(white(100, 100), tiles, level0_size=(1000, 1000), low=0, high=1, threshold=0.2)
    inside = picture[30:60, 30:60].reshape(-1, 3)
    assert {tuple(pixel) for pixel in inside.tolist()} == {(255, 255, 255), (0, 0, 0)}
    assert tuple(picture[29, 45].tolist()) == tuple(picture[45, 29].tolist()) == (0, 70, 160)
    scale = {tuple(pixel) for pixel in scale_colours().tolist()}
    assert not scale & {(255, 255, 255), (0, 0, 0), (0, 70, 160)}


def test_an_unreadable_tile_of_one_pixel_is_still_seen() -> None:
    tiles = tile_table((500, 500, 1, 1, None))
    picture = heatmap(white(100, 100), tiles, level0_size=(1000, 1000), low=0, high=1, threshold=None)
    assert tuple(picture[49, 50].tolist()) == (0, 70, 160)


def test_threshold_rings_the_region_outside_its_edge() -> None:
    tiles = tile_table((200, 200, 100, 100, 0.5), (300, 200, 100, 100, 0.49))
    picture = heatmap(white(50, 100), tiles, level0_size=(1000, 500), low=0, high=1, threshold=0.5)
    black = (picture == 10).all(axis=2)
    assert black[19, 25]  # above
    assert black[25, 30]  # on the neighbour that is below the threshold
    assert not black[20:30, 20:30].any()
    assert not black[:, 32:].any()


LEFT_TO_RIGHT = np.array([[[-0.5, 1.5], [-0.5, 1.5]]], np.float32)
"""Smoothed, they are 0 and 1."""


def in_shares(*shares: float, height: int = 10) -> Image:
    """What columns of one pixel look like whose tiles lie so far between the ends of the scale."""
    tiles = tile_table(*((10 * x, 0, 10, 10 * height, value) for x, value in enumerate(shares)))
    size = (10 * len(shares), 10 * height)
    return heatmap(white(height, len(shares)), tiles, level0_size=size, low=0, high=1, threshold=None)


@pytest.mark.parametrize(
    ("seen_share", "shares"),
    [
        (1.0, [0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1]),  # the cells' middles lie at 2.5 and 7.5 px
        (0.5, [0, 0, 0, 0, 0.3, 0.7, 1, 1, 1, 1]),  # at 3.75 and 6.25 px
    ],
)
def test_cells_are_painted_where_they_are_in_the_tile(seen_share: float, shares: list[float]) -> None:
    tiles = with_cells(tile_table((0, 0, 100, 100, 0.4)), LEFT_TO_RIGHT * 4 + 1)
    picture = heatmap(
        white(10, 10), tiles, level0_size=(100, 100), low=0, high=1, threshold=None, cell_scale=(1, 5),
        seen_share=seen_share,
    )  # fmt: skip
    halves = [(0.4 + cell) / 2 for cell in shares]
    assert np.abs(picture.astype(int) - in_shares(*halves)).max() <= 1


def test_cells_of_a_tile_that_is_cut_at_the_slide_stay_in_place() -> None:
    tiles = with_cells(tile_table((50, 0, 100, 100, 1.0)), LEFT_TO_RIGHT)
    picture = heatmap(white(10, 10), tiles, level0_size=(100, 100), low=0, high=1, threshold=None, cell_scale=(0, 1))
    assert np.abs(picture[:, 5:].astype(int) - in_shares(0.5, 0.5, 0.5, 0.6, 0.7)).max() <= 1
    assert (picture[:, :5] == 255).all()


def test_cells_that_are_smaller_than_pixels_are_averaged() -> None:
    cells = np.tile(np.array([0, 8, 0, 0, 8, 8], np.float32) / 8, (1, 6, 1))  # smoothed: 2 4 2 2 6 8
    tiles = with_cells(tile_table((0, 0, 30, 30, 1.0)), cells)
    picture = heatmap(white(3, 3), tiles, level0_size=(30, 30), low=0, high=1, threshold=None, cell_scale=(0, 1))
    halves = [(1 + cell / 8) / 2 for cell in (3, 2, 7)]
    assert np.abs(picture.astype(int) - in_shares(*halves, height=3)).max() <= 1


def test_without_a_scale_or_cells_it_is_the_heatmap_of_tiles() -> None:
    tiles = tile_table((0, 0, 50, 100, 0.3), (50, 0, 50, 100, 0.8))
    plain, unscaled, null = (
        heatmap(white(10, 10), each, level0_size=(100, 100), low=0, high=1, threshold=0.5, cell_scale=scale)
        for each, scale in (
            (tiles, (0, 9)),
            (with_cells(tiles, np.zeros((2, 2, 2), np.float32)), None),
            (with_cells(tiles, np.full((2, 2, 2), np.nan, np.float32)), (0, 9)),
        )
    )
    assert np.array_equal(plain, unscaled)
    assert np.array_equal(plain, null)


def test_with_cells_failures_and_thresholds_are_those_of_tiles() -> None:
    """One tile with cells, one whose cells are not known (its score is seen), and one that cannot be read."""
    tiles = tile_table((200, 200, 100, 100, 0.9), (400, 200, 100, 100, 0.5), (600, 200, 100, 100, None))
    cells = np.full((3, 2, 2), np.nan, np.float32)
    cells[0] = 3
    with_some, plain = (
        heatmap(white(50, 100), each, level0_size=(1000, 500), low=0, high=1, threshold=0.9, cell_scale=(2, 6))
        for each in (with_cells(tiles, cells), tiles)
    )
    inside = np.zeros((50, 100), bool)
    inside[20:30, 20:30] = True
    assert np.array_equal(with_some[~inside], plain[~inside])
    assert np.abs(with_some[inside].astype(int) - in_shares((0.9 + 0.25) / 2)[0]).max() <= 1
    assert tuple(with_some[19, 25].tolist()) == (10, 10, 10)


def test_heatmap_without_tiles_is_a_grey_slide() -> None:
    colourful = np.zeros((10, 10, 3), np.uint8)
    colourful[..., 0] = 200
    picture = heatmap(colourful, tile_table(), level0_size=(100, 100), low=0, high=1, threshold=0.5)
    assert (picture == picture[..., :1]).all()


def test_heatmap_leaves_the_thumbnail_alone_and_is_quick() -> None:
    size = 224
    tiles = tile_table(*((x * 256, y * 256, 256, 256, (x * y % 97) / 97) for y in range(size) for x in range(size)))
    thumbnail = white(1024, 1024)
    start = time.perf_counter()
    heatmap(thumbnail, tiles, level0_size=(size * 256, size * 256), low=0, high=1, threshold=0.9)
    assert time.perf_counter() - start < 5  # 50,176 tiles; 0.3 s on an idle core
    assert (thumbnail == 255).all()


def test_legend_has_the_heatmap_colours() -> None:
    grey = np.full((10, 20, 3), 128, np.uint8)  # becomes 125 + 128 * 130 / 255 = 190, the legend's grey
    tiles = tile_table((0, 0, 100, 100, 0.0), (100, 0, 100, 100, 1.0))
    picture = heatmap(grey, tiles, level0_size=(200, 100), low=0, high=1, threshold=None)
    for colour, pixel in zip(legend_colours(2), picture[5, [5, 15]], strict=True):
        stated = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(np.array(stated) - pixel).max() <= 3
