"""Regions against the union that shapely makes, on grids with corners that touch, holes, and tiles that overlap."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from uadray.errors import InputError
from uadray.exports.regions import Region, regions_of


def _boxes(mask: np.ndarray, *, stride: int = 10, side: int = 10) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.stack([columns * stride, rows * stride, *np.full((2, len(rows)), side)], axis=1).astype(np.int64)


def _polygon(region: Region) -> shapely.Polygon:
    return shapely.Polygon(region.rings[0], list(region.rings[1:]))


def _union(boxes: np.ndarray) -> shapely.Geometry:
    x, y, width, height = boxes.T
    return shapely.union_all(shapely.box(x, y, x + width, y + height))


masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31)).map(
    lambda drawn: np.random.default_rng(drawn[3]).random(drawn[:2]) < drawn[2] / 10
)


@given(mask=masks, overlap=st.sampled_from([0, 4]))
def test_regions_are_the_union_of_their_tiles(mask: np.ndarray, overlap: int) -> None:
    boxes = _boxes(mask, side=10 + overlap)
    regions = regions_of(boxes)
    polygons = [_polygon(region) for region in regions]
    assert all(polygon.is_valid for polygon in polygons)
    assert [polygon.area for polygon in polygons] == [region.area_px for region in regions]
    if len(boxes):
        assert shapely.symmetric_difference(shapely.union_all(polygons), _union(boxes)).area == 0
        assert sorted(np.concatenate([region.tiles for region in regions])) == list(range(len(boxes)))
    for region, polygon in zip(regions, polygons, strict=True):
        centres = boxes[region.tiles, :2] + boxes[region.tiles, 2:] / 2
        assert all(polygon.contains(shapely.Point(centre)) for centre in centres)


def test_corners_do_not_join_tiles() -> None:
    apart = regions_of(_boxes(np.eye(2, dtype=bool)))
    assert [len(region.tiles) for region in apart] == [1, 1]
    assert apart[0].rings[0].tolist() == [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def test_a_hole_that_touches_the_outline_in_a_corner_is_a_hole() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    (region,) = regions_of(_boxes(mask))
    assert len(region.rings) == 2
    assert _polygon(region).is_valid
    assert region.area_px == 700


@given(mask=masks)
def test_outlines_of_overlapping_tiles_move_by_the_tolerance_at_most(mask: np.ndarray) -> None:
    boxes = _boxes(mask, stride=3, side=12)
    for exact, simple in zip(regions_of(boxes), regions_of(boxes, tolerance_px=5), strict=True):
        assert simple.area_px == exact.area_px
        assert _polygon(simple).is_valid
        moved = shapely.hausdorff_distance(_polygon(exact).exterior, _polygon(simple).exterior, 0.1)
        assert moved <= 5 + 1e-9
        assert len(simple.rings[0]) <= len(exact.rings[0])


def test_tiles_on_no_grid_are_refused() -> None:
    places = np.arange(10_000, dtype=np.int64)
    boxes = np.stack([places * 7 + places % 5, places * 11 + places % 7, places + 1, places + 3], axis=1)
    with pytest.raises(InputError, match="lie on no grid"):
        regions_of(boxes)


def test_no_tiles_make_no_regions() -> None:
    assert regions_of(np.empty((0, 4), np.int64)) == []
