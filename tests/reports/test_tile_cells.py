"""Between the middles of cells values go in straight lines, and beyond the outer ones they stay."""

import numpy as np

from uadray.reports.colours import tint
from uadray.reports.pictures import pale_grey
from uadray.reports.tile_cells import cells_at, over_tile


def test_values_between_cells_by_hand() -> None:
    cells = np.array([[[9, 9], [9, 9]], [[0, 1], [2, 3]]], np.float32)
    # The middles of two cells a side lie at 1/4 and 3/4.
    x, y = np.array([0.25, 0.75, 0.5, 0.5, 0.0, 1.0]), np.array([0.25, 0.25, 0.25, 0.5, 0.0, 1.0])
    assert cells_at(cells, np.ones(6, np.int64), x, y).tolist() == [0, 1, 0.5, 1.5, 0, 3]
    assert cells_at(cells[:1, :1, :1], np.zeros(6, np.int64), x, y).tolist() == [9] * 6


def test_a_tile_under_its_cells_has_the_colours_of_a_heatmap() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = over_tile(tile, np.array([[-1, 3], [-1, 3]], np.float32), low=0, high=2)  # 0 and 2, when smoothed
    columns = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    np.testing.assert_array_equal(picture, tint(pale_grey(tile), np.tile(columns, (8, 1)), low=0, high=1))
    assert (picture[:, 0].mean(), picture.dtype) > (picture[:, -1].mean(), np.uint8)
