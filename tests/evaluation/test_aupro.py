"""AUPRO by hand, and against loops over pixels."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from tile_grids import STEP, grid_tiles

from uadray.evaluation import aupro
from uadray.evaluation.aupro import Aupro, cells, regions


def _naive(pictures: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]], limit: float = 0.3) -> float:
    """Of scores and numbers of regions [h, w], 0 for normal; each threshold by itself."""
    points = [(0.0, 0.0)]
    for threshold in sorted({float(s) for scores, _ in pictures for s in scores.ravel()}, reverse=True):
        normal = np.concatenate([(scores >= threshold)[number == 0] for scores, number in pictures])
        overlaps = [
            (scores >= threshold)[number == n].mean() for scores, number in pictures for n in set(number[number > 0])
        ]
        points.append((float(normal.mean()), float(np.mean(overlaps))))
    area = 0.0
    for (a, low), (b, high) in pairwise(points):
        if a >= limit:
            break
        end = min(b, limit)
        at_end = low + (high - low) * ((end - a) / (b - a) if b > a else 1)
        area += (end - a) * (low + at_end) / 2
    return area / limit


def test_by_hand() -> None:
    """Two lesions of two tiles and one; a normal tile of ten above all but one."""
    scores = [[9.0, 5.0, 1.0, 1.0], [1.0, 1.0, 1.0, 7.0], [8.0, 1.0, 1.0, 1.0], [1.0] * 4]
    lesions = shapely.union_all([shapely.box(0, 0, 2 * STEP, STEP), shapely.box(3 * STEP, STEP, 4 * STEP, 2 * STEP)])
    total = Aupro()
    total.add_tiles(grid_tiles(scores), lesions)
    rate, overlap = total.curve()
    assert rate == pytest.approx([0, 0, 1 / 13, 1 / 13, 1 / 13, 1])
    assert overlap == pytest.approx([0, 0.25, 0.25, 0.75, 1, 1])
    figures = total.figures()
    assert figures is not None
    assert figures["regions"] == 2
    assert figures["score"] == pytest.approx((0.25 / 13 + 0.3 - 1 / 13) / 0.3)
    assert figures["curve"][-1] == [0.3, 1.0]


pictures = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), min_size=36, max_size=36),
        st.lists(st.booleans(), min_size=4, max_size=4),
        st.lists(st.integers(0, 3), min_size=4, max_size=4),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=60)
@given(pictures)
def test_equals_loops_over_pixels(drawn: list[tuple[list[int], list[bool], list[int]]]) -> None:
    """Pictures of four lesions apart, of one to four pixels each, as maps and as tiles with outlines."""
    of_maps, of_tiles, naive = Aupro(), Aupro(), []
    for values, are_there, extra in drawn:
        scores = np.array(values, np.float64).reshape(6, 6)
        number = np.zeros((6, 6), np.int64)
        for i, (r, c) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            if are_there[i]:
                for dr, dc in [(0, 0), (0, 1), (1, 0), (1, 1)][: extra[i] + 1]:
                    number[r + dr, c + dc] = i + 1
        naive.append((scores, number))
        of_maps.add_map(scores, number > 0)
        outline: Any = shapely.union_all(
            [shapely.box(c * STEP, r * STEP, (c + 1) * STEP, (r + 1) * STEP) for r, c in np.argwhere(number)]
        )
        of_tiles.add_tiles(grid_tiles(scores.tolist()), outline)
    if not any((number > 0).any() for _, number in naive):
        assert of_maps.figures() is of_tiles.figures() is None
        return
    for total in (of_maps, of_tiles):
        figures = total.figures()
        assert figures is not None
        assert figures["score"] == pytest.approx(_naive(naive))


def test_parts_of_tiles_count_in_part() -> None:
    """A lesion of half a tile and half of what has no score: found at most to the half."""
    total = Aupro()
    total.add_tiles(grid_tiles([[5.0, None, 1.0, 1.0]]), shapely.box(STEP / 2, 0, 1.5 * STEP, STEP))
    rate, overlap = total.curve()
    assert rate == pytest.approx([0, 0.5 / 2.5, 1])
    assert overlap == pytest.approx([0, 0.5, 0.5])


def test_overlapping_tiles_stand_for_their_middle() -> None:
    boxes, _ = cells(grid_tiles([[1.0, 2.0, 3.0]] * 3, side_px=96, step_px=48))
    assert shapely.area(boxes).tolist() == [48**2] * 9
    assert shapely.union_all(boxes).bounds == (24, 24, 168, 168)


def test_what_touches_is_one_region() -> None:
    corner = shapely.MultiPolygon([shapely.box(0, 0, 9, 9), shapely.box(9, 9, 19, 19), shapely.box(30, 0, 39, 9)])
    found = regions(shapely.GeometryCollection([corner, shapely.Point(50, 50)]))
    assert sorted(region.area for region in found) == [81, 181]
    assert regions(None) == []


def test_many_scores_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded, and the score changes by less than it says."""
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(0, 1, (50, 50)), np.zeros((50, 50), bool)) for _ in range(40)]
    for scores, mask in drawn:
        mask[10:15, 10:20] = True
        scores[mask] += 2
    whole, bounded = Aupro(), Aupro()
    for scores, mask in drawn:
        whole.add_map(scores, mask)
    monkeypatch.setattr(aupro, "MOST", 20_000)
    monkeypatch.setattr(aupro, "BINS", 4_000)
    for scores, mask in drawn:
        bounded.add_map(scores, mask)
    assert bounded._normal._kept < 20_000 < whole._normal._kept
    exact, close = whole.figures(), bounded.figures()
    assert exact is not None
    assert close is not None
    assert close["score"] == pytest.approx(exact["score"], abs=0.002)
    assert len(exact["curve"]) <= aupro.CURVE_POINTS
