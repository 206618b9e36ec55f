"""Outlines without links: the same area as GEOS finds, in valid polygons."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from uadray.tiles.mask_outlines import _traced
from uadray.tiles.outline_links import unlinked
from uadray.tiles.polygon_fill import Polygon


def _shape(polygon: Polygon) -> shapely.Polygon:
    return shapely.Polygon(polygon[0], polygon[1:])


def _mask(*rows: str) -> np.ndarray:
    return np.array([[pixel == "x" for pixel in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "n_holes"),
    [
        pytest.param(_mask("x..", ".x.", "..x"), [0, 0, 0], id="staircase"),
        pytest.param(_mask("xxx.", "x.x.", "xxx.", "...x"), [1, 0], id="ring and a pixel"),
        pytest.param(_mask("xxx", "x.x", "xx."), [0], id="a ring that closes at a corner is open"),
        pytest.param(
            _mask("xxxxx", "x...x", "x..xx", "x.x.x", "xxxxx"), [1], id="two holes that meet at a corner are one"
        ),
        pytest.param(_mask("xxxxx", "x...x", "x.x.x", "x..xx", "xxxxx"), [1, 0], id="an island that hangs on a corner"),
        pytest.param(_mask("xx", "xx"), [0], id="without a link"),
    ],
)
def test_pieces_and_holes_by_hand(mask: np.ndarray, n_holes: list[int]) -> None:
    assert sorted((len(piece) - 1 for piece in unlinked(_traced(mask), 0.5)), reverse=True) == n_holes


@settings(max_examples=200, deadline=None)
@given(mask=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_has_the_area_that_geos_finds(mask: np.ndarray) -> None:
    if not mask.any():
        return
    traced = _traced(mask)
    found = [_shape(piece) for piece in unlinked(traced, 0.5)]
    assert all(shape.is_valid for shape in found)
    expected = [shapely.make_valid(_shape(each), method="structure", keep_collapsed=False) for each in traced]
    assert shapely.union_all(found).equals(shapely.union_all(expected))
