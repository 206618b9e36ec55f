"""Masks of lesions: how large, of any resolution, and what is refused."""

import math

import numpy as np
import pytest
import shapely
from naive_froc import naive_lesions
from scipy import ndimage

from uadray.errors import InputError
from uadray.evaluation.lesions import LEVEL_UM, lesion_mask, longest_axes, rasterised


@pytest.mark.parametrize("mpp", [0.12, 0.226, 0.243, 0.486, 0.972])
def test_a_lesion_is_judged_alike_at_any_resolution(mpp: float) -> None:
    """A disc of 300 um: widened by 37.5 um, its area is known in micrometres, to a pixel of its edge."""
    disc = shapely.Point(1000 / mpp, 800 / mpp).buffer(150 / mpp, quad_segs=64)
    mask = lesion_mask(disc, mpp_level0=mpp)
    um = mpp * mask.downsample
    assert LEVEL_UM / math.sqrt(2) <= um <= LEVEL_UM * math.sqrt(2)
    assert (mask.n_lesions, mask.n_isolated) == (1, 0)
    area = (mask.labels > 0).sum() * um**2
    assert math.sqrt(area / math.pi) == pytest.approx(150 + 37.5, abs=um)
    assert mask.at(np.array([1000 / mpp]), np.array([800 / mpp]))[0] == 1
    assert mask.at(np.array([1250 / mpp, -5, 1e6]), np.array([800 / mpp, -5, 1e6])).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("diameter_um", "is_isolated"), [(185, True), (220, False)])
def test_isolated_cells_are_smaller_than_200_um(diameter_um: float, is_isolated: bool) -> None:
    """To a pixel of the mask on each side."""
    disc = shapely.Point(4000, 4000).buffer(diameter_um / 0.243 / 2, quad_segs=64)
    assert lesion_mask(disc, mpp_level0=0.243).is_isolated.tolist() == [False, is_isolated]


def test_at_the_edge_of_a_slide_it_is_cut_off() -> None:
    """A C at the slide's edge encloses background that reaches the edge, and no hole."""
    c = shapely.union_all([shapely.box(0, 0, 50, 3), shapely.box(47, 0, 50, 50), shapely.box(0, 47, 50, 50)])
    drawn = np.zeros((60, 60), np.bool_)
    drawn[:3, :50] = drawn[:50, 47:50] = drawn[47:50, :50] = True
    labels, _ = naive_lesions(drawn, LEVEL_UM)
    mask = lesion_mask(c, mpp_level0=LEVEL_UM, size_level0_px=(60, 60))
    x, y = np.meshgrid(np.arange(60.0), np.arange(60.0))
    found = mask.at(x.ravel(), y.ravel()).reshape(60, 60)
    assert found[25, 0] == 0
    assert {(int(r), int(c)) for r, c in np.argwhere(found)} == set(labels)


def test_nothing_to_find() -> None:
    for empty in (shapely.GeometryCollection(), shapely.LineString([(0, 0), (9, 9)])):
        mask = lesion_mask(empty, mpp_level0=0.5)
        assert (mask.n_lesions, mask.n_isolated) == (0, 0)
        assert mask.at(np.array([0.0]), np.array([0.0])).tolist() == [0]


def test_coordinates_of_no_slide_are_refused() -> None:
    with pytest.raises(InputError, match=r"outlines of a: .*are the coordinates level-0 pixels"):
        lesion_mask(shapely.box(-1e300, -1e300, 1e300, 1e300), mpp_level0=0.243, name="outlines of a")
    whole = lesion_mask(shapely.box(-1e300, -1e300, 1e300, 1e300), mpp_level0=0.243, size_level0_px=(640, 320))
    assert whole.labels.shape == (10, 20)


def test_holes_and_parts_are_drawn() -> None:
    ring = shapely.difference(shapely.box(0, 0, 40, 40), shapely.box(10, 10, 30, 30))
    both = shapely.GeometryCollection([shapely.MultiPolygon([ring, shapely.box(60, 60, 64, 64)]), shapely.Point(1, 1)])
    mask = rasterised(both, (8, 8), downsample=10)
    assert mask.sum() == 12
    assert not mask[1:3, 1:3].any()
    assert rasterised(both, (70, 70), downsample=1).sum() == both.area
    assert rasterised(ring, (2, 2), downsample=10, left=1, top=1).sum() == 0


def test_longest_axes_are_those_of_ellipses() -> None:
    """4 sigma of an ellipse is its axis; a single pixel has none."""
    rows, columns = np.mgrid[:200, :200]
    turned = (columns - 90) * math.cos(0.4) + (rows - 80) * math.sin(0.4)
    across = -(columns - 90) * math.sin(0.4) + (rows - 80) * math.cos(0.4)
    drawn = (turned / 60) ** 2 + (across / 20) ** 2 <= 1
    drawn[199, 199] = True
    labels, n = ndimage.label(drawn, output=np.int32)
    assert longest_axes(labels, n) == pytest.approx([120, 0], rel=0.01)
