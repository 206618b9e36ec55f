"""The tiles that are shown of a slide come from different places, whatever order its parts are scored in."""

import itertools

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.schemas import TILE_SCORES
from uadray.screening.evidence_places import (
    APART_TILES,
    CANDIDATES,
    EVIDENCE_TILES,
    LEAST_TILES,
    apart,
    best_of_regions,
    region_scores,
    regions,
)
from uadray.screening.slide_result import EVIDENCE

SIDE = 100


def _tiles(places: list[tuple[int, int]], scores: npt.NDArray[np.float64]) -> pa.Table:
    """Tiles of 100 px at these columns and rows."""
    n = len(places)
    columns = {
        "tile_id": [f"t{i:04d}" for i in range(n)], "slide_id": ["s"] * n, "band": ["tissue"] * n, "score": scores,
        "x_level0_px": [SIDE * x for x, _ in places], "y_level0_px": [SIDE * y for _, y in places],
        "width_level0_px": [SIDE] * n, "height_level0_px": [SIDE] * n, "tissue_fraction": [1.0] * n,
    }  # fmt: skip
    return pa.table(
        {f.name: pa.array(columns.get(f.name, [None] * n), f.type) for f in TILE_SCORES}, schema=TILE_SCORES
    )


def _candidates(tiles: pa.Table) -> pa.Table:
    """What is sent of a part with these tiles."""
    score = tiles["score"].to_numpy()
    x, y = (tiles[f"{axis}_level0_px"].to_numpy() for axis in "xy")
    rows = best_of_regions(score, regions(x, y, np.full(len(x), SIDE)))
    n = len(rows)
    columns = {
        "tile_id": [tiles["tile_id"][row].as_py() for row in rows], "score": score[rows], "tile": [b""] * n,
        "reconstruction": [None] * n, "normals": [None] * n,
    }  # fmt: skip
    return pa.table(columns, schema=EVIDENCE)


def _shown(tiles: pa.Table, parts: list[pa.Table]) -> pa.Table:
    return apart(pa.concat_tables([_candidates(part) for part in parts]), tiles)


def _grid(width: int, height: int) -> list[tuple[int, int]]:
    return [(x, y) for y in range(height) for x in range(width)]


def test_a_large_lesion_is_not_all_that_is_shown() -> None:
    """One of 3 x 3 tiles scores far above all others, and one tile elsewhere somewhat."""
    places = _grid(40, 40)
    scores = np.array([9 - 0.1 * (x + y) if 10 <= x < 13 and 10 <= y < 13 else 5.0 if (x, y) == (30, 5) else 0.001 * x
                       for x, y in places])  # fmt: skip
    tiles = _tiles(places, scores)
    shown = _shown(tiles, [tiles])
    assert shown["score"].to_pylist()[:2] == [pytest.approx(7.0), 5.0]
    assert sum(score > 6 for score in shown["score"].to_pylist()) == 1
    assert len(shown) >= LEAST_TILES


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12))
def test_the_order_of_parts_does_not_matter(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    places = _grid(width, height)
    tiles = _tiles(places, np.round(rng.normal(size=len(places)), 2))
    ends = sorted({0, len(places), *rng.integers(0, len(places) + 1, 2).tolist()})
    parts = [tiles.slice(start, stop - start) for start, stop in itertools.pairwise(ends)]
    orders = [_shown(tiles, list(order)).to_pylist() for order in itertools.permutations(parts)]
    assert all(order == orders[0] for order in orders)
    assert 1 <= len(orders[0]) <= EVIDENCE_TILES
    scores = [row["score"] for row in orders[0]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == tiles["score"].to_numpy().max()


def test_tiles_that_are_shown_lie_apart() -> None:
    places = _grid(30, 30)
    tiles = _tiles(places, np.random.default_rng(0).normal(size=len(places)))
    shown = _shown(tiles, [tiles])
    corners = [places[int(tile_id[1:])] for tile_id in shown["tile_id"].to_pylist()]
    assert len(corners) == EVIDENCE_TILES
    assert min(np.hypot(a - c, b - d) for (a, b), (c, d) in itertools.combinations(corners, 2)) >= APART_TILES


def test_where_little_is_left_tiles_may_be_neighbours() -> None:
    """Three regions meet in one row of tiles; what is best of each lies side by side."""
    places = [(3, 3), (4, 3), (3, 4), (0, 0)]
    tiles = _tiles(places, np.array([4.0, 3.0, 2.0, 1.0]))
    assert _shown(tiles, [tiles])["tile_id"].to_pylist() == ["t0000", "t0001", "t0002"]


def test_scores_that_are_none_are_not_shown() -> None:
    of_regions = [(0, i) for i in range(4)]
    assert best_of_regions(np.array([1.0, np.nan, np.inf, 2.0]), of_regions) == [3, 0]
    assert len(best_of_regions(np.arange(100.0), [(0, i) for i in range(100)])) == CANDIDATES
    assert apart(EVIDENCE.empty_table(), _tiles([], np.empty(0))).num_rows == 0
    assert region_scores(EVIDENCE.empty_table(), _tiles([], np.empty(0))) == {}
