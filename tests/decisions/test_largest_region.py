"""The largest region against a flood fill, and by hand where regions are of one size."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.decisions.neighbourhoods import SQUARE_UM, Squares
from uadray.decisions.regions import largest_region


def _slowly(scores: dict[tuple[int, int], float]) -> list[set[tuple[int, int]]]:
    left, regions = set(scores), []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            edge += around
        regions.append(region)
    return regions


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), threshold=st.floats(-1, 2))
@settings(max_examples=80, deadline=None)
def test_as_a_flood_fill(seed: int, share: float, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.nonzero(rng.random((7, 9)) < share)
    if not len(y):
        return
    squares = Squares(y, x, rng.normal(size=len(y)), SQUARE_UM)
    places = list(zip(y.tolist(), x.tolist(), strict=True))
    above = {place: score for place, score in zip(places, squares.score, strict=True) if score > threshold}
    found = {places[i] for i in largest_region(squares, threshold)}
    regions = _slowly(above)
    if not regions:
        assert not found
        return
    best = max(regions, key=lambda region: (len(region), np.mean([above[place] for place in region])))
    assert found == best


def test_corners_touch_and_gaps_do_not() -> None:
    row, column = np.array([0, 1, 2, 0, 1]), np.array([0, 1, 2, 4, 4])
    squares = Squares(row, column, np.array([1.0, 1.0, 1.0, 9.0, 9.0]), SQUARE_UM)
    assert largest_region(squares, 0.5).tolist() == [0, 1, 2]
    assert largest_region(squares, 2.0).tolist() == [3, 4]
    assert largest_region(squares, 9.0).tolist() == []
