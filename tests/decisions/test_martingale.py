"""Conformal p-values are uniform and independent, and wealth made of them is seldom large, unless numbers change."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.decisions.martingale import HORIZON, KNOTS, _moved_shares, change, evidence, p_values

Numbers = npt.NDArray[np.float64]

LIMIT = np.log10(5 / 0.01)


def _path(stream: Numbers, normals: Numbers, rng: np.random.Generator) -> Numbers:
    return evidence(p_values(stream, normals, rng.random(len(stream))), len(normals))


def _first(path: Numbers, limit: float = LIMIT) -> int | None:
    reached = np.flatnonzero(path >= limit)
    return int(reached[0]) + 1 if len(reached) else None


def _slow_p(stream: Numbers, normals: Numbers, ties: Numbers) -> list[float]:
    p, seen = [], normals.tolist()
    for number, tie in zip(stream.tolist(), ties.tolist(), strict=True):
        seen.append(number)
        p.append((sum(s > number for s in seen) + tie * sum(s == number for s in seen)) / len(seen))
    return p


@pytest.mark.parametrize("n_normals", [0, 1, 30])
def test_p_values_are_ranks_among_all_so_far(n_normals: int) -> None:
    rng = np.random.default_rng(0)
    stream, normals = rng.integers(0, 40, 700).astype(float), rng.integers(0, 40, n_normals).astype(float)
    ties = rng.random(700)
    assert p_values(stream, normals, ties).tolist() == pytest.approx(_slow_p(stream, normals, ties), abs=1e-12)


@pytest.mark.parametrize("values", [1, 3, 10**6])
def test_p_values_of_exchangeable_numbers_are_uniform_and_independent(values: int) -> None:
    """3 p-values of each of 9,000 streams, with none, few and many ties: 5 x 5 x 5 cells are equally full (chi2)."""
    rng = np.random.default_rng(1)
    cells = np.zeros((5, 5, 5))
    for _ in range(9000):
        numbers = rng.integers(0, values, 7).astype(float)
        cells[tuple((5 * p_values(numbers[4:], numbers[:4], rng.random(3))).astype(int))] += 1
    expected = 9000 / 125
    assert ((cells - expected) ** 2 / expected).sum() < 124 + 4 * np.sqrt(2 * 124)


def test_what_is_expected_of_moved_numbers_is_a_distribution() -> None:
    for deviations in (0.5, 1.0, 4.0):
        moved = _moved_shares(deviations)
        assert (moved * np.diff(KNOTS)).sum() == pytest.approx(1)
        assert (np.diff(moved) < 1e-9).all(), "the higher a number, the more likely"


@pytest.mark.parametrize(("n_normals", "k"), [(1, 0), (30, 0), (1, 3), (1000, 3), (10, HORIZON - 1), (10, HORIZON + 9)])
def test_wealth_is_a_martingale(n_normals: int, k: int) -> None:
    """One more p-value, taken all over (0, 1), leaves the wealth as it was on average."""
    before = np.random.default_rng(2).random(k) ** 2
    wealth = 10 ** evidence(before, n_normals)[-1] if k else 1.0
    grid = (np.arange(200) + 0.5) / 200
    after = np.mean([10 ** evidence(np.append(before, p), n_normals)[-1] for p in grid])
    assert after == pytest.approx(wealth, rel=0.02)


@pytest.mark.parametrize("n_normals", [2, 30, 200])
def test_normal_streams_reach_the_limit_no_more_often_than_stated(n_normals: int) -> None:
    """150 streams of 150 numbers; checked are the limits of 0.5 and 0.1, which tell more than that of 0.002."""
    rng = np.random.default_rng(3)
    highest = np.array([_path(rng.standard_cauchy(150), rng.standard_cauchy(n_normals), rng).max() for _ in range(150)])
    for delta in (0.5, 0.1):
        share = (highest >= np.log10(1 / delta)).mean()
        assert share <= delta + 3 * np.sqrt(delta * (1 - delta) / 150)
    assert (highest >= LIMIT).sum() <= 3


@pytest.mark.parametrize(
    ("n_normals", "begins", "moved", "within"),
    [(30, 0, 4.0, 7), (60, 0, -4.0, 7), (200, 0, 2.0, 15), (60, 300, -2.0, 20), (200, 300, 4.0, 8)],
)
def test_a_shift_is_found(n_normals: int, begins: int, moved: float, within: int) -> None:
    rng = np.random.default_rng(4)
    late, told = [], []
    for _ in range(20):
        normals, stream = rng.standard_normal(n_normals), rng.standard_normal(begins + 60)
        stream[begins:] += moved
        p = p_values(stream, normals, rng.random(len(stream)))
        at = _first(evidence(p, n_normals))
        late.append((at or 10**6) - begins)
        what = change(p[:at], n_normals)
        told.append(what.direction == ("higher" if moved > 0 else "lower") and abs(what.start - begins) <= 5)
    assert np.quantile(late, 0.9) <= within
    assert np.mean(told) >= 0.9


@pytest.mark.parametrize("kind", ["trend", "blocks"])
def test_numbers_whose_order_tells_something_are_found(kind: str) -> None:
    rng = np.random.default_rng(5)
    stream = rng.standard_normal(400)
    stream += np.linspace(0, 3, 400) if kind == "trend" else np.repeat(rng.standard_normal(4) * 3, 100)
    assert _path(stream, rng.standard_normal(60), rng).max() > LIMIT


def test_equal_numbers_tell_nothing() -> None:
    rng = np.random.default_rng(6)
    highest = [_path(np.zeros(300), np.zeros(30), rng).max() for _ in range(100)]
    assert np.mean(np.array(highest) >= 1) <= 0.1 + 0.09


def test_an_empty_stream_has_no_evidence() -> None:
    assert evidence(p_values(np.zeros(0), np.ones(3), np.zeros(0)), 3).tolist() == []


@settings(max_examples=60, deadline=None)
@given(
    stream=st.lists(st.integers(-3, 3), min_size=1, max_size=3 * HORIZON),
    normals=st.lists(st.integers(-3, 3), max_size=40),
    cut=st.integers(0, 3 * HORIZON),
    seed=st.integers(0, 99),
)
def test_the_evidence_of_a_prefix_never_changes(stream: list[int], normals: list[int], cut: int, seed: int) -> None:
    whole, known = np.array(stream, float), np.array(normals, float)
    ties = np.random.default_rng(seed).random(len(whole))
    path = evidence(p_values(whole, known, ties), len(known))
    assert np.isfinite(path).all()
    prefix = evidence(p_values(whole[:cut], known, ties[:cut]), len(known))
    assert prefix == pytest.approx(path[:cut], abs=1e-9)
