"""Where squares lie, on any grid; what their neighbours add, by hand and against a slow reference."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.decisions.neighbourhoods import (
    ALONE_UM,
    DIFFUSION_STEPS,
    SQUARE_UM,
    Squares,
    diffused,
    grown,
    smoothed,
    squares_of,
)  # fmt: skip
from uadray.tiles.grid import grid
from uadray.tiles.spec import TileSpec

Place = tuple[int, int]


def _squares(rows: list[list[float | None]], side_um: float = SQUARE_UM) -> Squares:
    """A picture as squares, None where there is none."""
    places = [(y, x) for y, row in enumerate(rows) for x, score in enumerate(row) if score is not None]
    score = np.array([rows[y][x] for y, x in places], np.float64)
    y, x = np.array(places).T
    return Squares(y, x, score, side_um)


def _by_place(squares: Squares, values: np.ndarray) -> dict[Place, float]:
    return dict(zip(zip(squares.row.tolist(), squares.column.tolist(), strict=True), values.tolist(), strict=True))


def test_smoothed_by_hand() -> None:
    """A hole in the middle, and one at the edge: they and what is outside count as the mean, 33 / 7."""
    squares = _squares([[1.0, 2.0, 3.0], [4.0, None, 6.0], [None, 8.0, 9.0]])
    found = [(7, 3), (16, 5), (11, 3), (15, 4), (28, 5), (27, 4), (23, 3)]
    np.testing.assert_allclose(smoothed(squares), [(total + (9 - n) * 33 / 7) / 9 for total, n in found])


def test_grown_by_hand() -> None:
    """From 0: 5, then 7 through 5, then 4 and not 9, which touches a corner only."""
    squares = _squares([[0.0, 5.0, 7.0], [1.0, None, 4.0], [None, 9.0, None]])
    assert grown(squares)[0] == (0 + 5 + 7 + 4) / 4
    assert grown(squares)[-1] == pytest.approx((9 + 3 * 26 / 6) / 4)  # without a neighbour, with three of the mean


@pytest.mark.parametrize(("side_um", "n_taken"), [(62.0, 8), (SQUARE_UM, 4), (112.0, 3), (128.0, 2), (256.0, 1)])
def test_larger_squares_grow_by_fewer(side_um: float, n_taken: int) -> None:
    squares = _squares([[float(i) for i in range(10, 0, -1)]], side_um)
    assert grown(squares)[0] == np.arange(10, 10 - n_taken, -1).mean()


def test_squares_of_twice_the_size_are_alone() -> None:
    squares = _squares([[1.0, 2.0], [3.0, 4.0]], ALONE_UM)
    assert smoothed(squares).tolist() == grown(squares).tolist() == diffused(squares).tolist() == [1.0, 2.0, 3.0, 4.0]


def _slowly_grown(scores: dict[Place, float], start: Place, n_taken: int) -> float:
    taken = [start]
    while len(taken) < n_taken:
        around = [(y + dy, x + dx) for y, x in taken for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        free = [place for place in around if place in scores and place not in taken]
        if not free:
            break
        taken.append(max(free, key=scores.__getitem__))
    missing = [np.mean(list(scores.values()))] * (n_taken - len(taken))
    return float(np.mean([scores[place] for place in taken] + missing))


def _slowly_smoothed(scores: dict[Place, float], y: int, x: int) -> float:
    mean = np.mean(list(scores.values()))
    return float(np.mean([scores.get((v, u), mean) for v in (y - 1, y, y + 1) for u in (x - 1, x, x + 1)]))


def _slowly_diffused(scores: dict[Place, float]) -> list[float]:
    mean = np.mean(list(scores.values()))
    for _ in range(DIFFUSION_STEPS):
        scores = {(y, x): float(np.mean([scores.get(place, mean) for place in
                                         ((y, x), (y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1))]))
                  for y, x in scores}  # fmt: skip
    return list(scores.values())


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 1), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_as_a_slow_reference(seed: int, share: float, ties: bool) -> None:
    """On any tissue, holes and islands included, and with many equal scores."""
    rng = np.random.default_rng(seed)
    y, x = np.nonzero(rng.random((7, 9)) < share)
    if len(y) == 0:
        return
    score = rng.normal(size=len(y))
    squares = Squares(y, x, np.minimum(score, 0.0) if ties else score, SQUARE_UM)
    scores = _by_place(squares, squares.score)
    np.testing.assert_allclose(grown(squares), [_slowly_grown(scores, place, 4) for place in scores], atol=1e-12)
    np.testing.assert_allclose(smoothed(squares), [_slowly_smoothed(scores, *place) for place in scores], atol=1e-12)
    np.testing.assert_allclose(diffused(squares), _slowly_diffused(scores), atol=1e-12)


@given(
    mpp_level0=st.floats(0.2, 1.1), tile_px=st.integers(48, 300), overlap=st.integers(1, 3), seed=st.integers(0, 999)
)
@settings(max_examples=60, deadline=None)
def test_squares_are_found_on_any_grid(mpp_level0: float, tile_px: int, overlap: int, seed: int) -> None:
    """Whatever the stride in level-0 pixels and the tissue between: of each block the mean, at the block's place."""
    spec = TileSpec(mpp=1.0, tile_px=tile_px, stride_px=tile_px // overlap, min_tissue=0)
    width, height = (round(side * spec.stride / mpp_level0) for side in (37, 23))
    tiles = grid("s", (width, height), mpp_level0, np.ones((1, 1), bool), spec)
    columns, rows = (np.unique(tiles[f"{name}_level0_px"].to_numpy(), return_inverse=True)[1] for name in "xy")
    score = 1000.0 * rows + columns
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(tiles))[: max(8, int(rng.random() * len(tiles)))]
    squares = squares_of(tiles.append_column("score", pa.array(score)).take(kept), spec)
    block = max(1, round(SQUARE_UM / spec.stride))
    assert squares.side_um == block * spec.stride
    expected: dict[Place, list[float]] = {}
    for i in kept:
        expected.setdefault((int(rows[i]) // block, int(columns[i]) // block), []).append(score[i])
    top, left = min(y for y, _ in expected), min(x for _, x in expected)
    found = _by_place(squares, squares.score)
    assert found == pytest.approx({(y - top, x - left): np.mean(scores) for (y, x), scores in expected.items()})
