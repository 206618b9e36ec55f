"""Lists of slides: Benjamini-Hochberg against scipy, its bound in simulated archives, and what it needs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uadray.decisions.fdr import check_normals, discoveries, normals_needed, q_values, shortest_list
from uadray.errors import InputError

P = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def conformal(scores: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """P-values of many slides at once, as `conformal.p_value` makes them."""
    ordered = np.sort(normals)
    at_least = len(ordered) - np.searchsorted(ordered, scores, "left")
    return (1 + at_least) / (len(ordered) + 1)


@given(P)
def test_q_values_are_those_of_scipy(p: list[float]) -> None:
    np.testing.assert_allclose(q_values(np.array(p)), stats.false_discovery_control(p), rtol=1e-12)


@given(P, st.floats(0.01, 0.99))
def test_the_list_is_that_of_the_step_up_procedure(p: list[float], q: float) -> None:
    values, n = np.sort(p), len(p)
    passing = [k for k in range(1, n + 1) if values[k - 1] <= k * q / n * (1 + 1e-12)]
    assert discoveries(np.array(p), q).sum() == (np.array(p) <= values[passing[-1] - 1]).sum() if passing else True
    assert bool(passing) == bool(discoveries(np.array(p), q).any())


@given(P, st.integers(0, 39), st.integers(1, 5))
def test_slides_without_a_p_value_change_nothing(p: list[float], at: int, times: int) -> None:
    there = np.insert(np.array(p), min(at, len(p)), [np.nan] * times)
    q = q_values(there)
    assert (np.isnan(q) == np.isnan(there)).all()
    np.testing.assert_array_equal(q[~np.isnan(q)], q_values(np.array(p)))
    assert not discoveries(there, 0.9)[np.isnan(there)].any()


@given(P, st.integers(0, 2**32 - 1))
def test_the_order_of_slides_does_not_matter_and_a_lower_p_has_no_higher_q(p: list[float], seed: int) -> None:
    values, order = np.array(p), np.random.default_rng(seed).permutation(len(p))
    np.testing.assert_array_equal(q_values(values)[order], q_values(values[order]))
    assert (np.diff(q_values(np.sort(values))) >= 0).all()


def test_no_slide_and_no_p_value() -> None:
    assert q_values(np.empty(0)).tolist() == []
    assert np.isnan(q_values(np.array([np.nan, np.nan]))).all()


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        q_values(np.array([0.5, p]))


@pytest.mark.parametrize("q", [0, 1, -0.1, float("nan")])
def test_what_is_no_rate_is_refused(q: float) -> None:
    with pytest.raises(InputError, match="false discovery rate"):
        discoveries(np.array([0.5]), q)


@given(st.integers(1, 3000), st.integers(1, 400), st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.3]))
def test_the_shortest_list_is_the_shortest(n_slides: int, n_normals: int, q: float) -> None:
    k = shortest_list(n_slides, n_normals, q)
    for n_smallest, is_listed in ((k - 1, False), (k, True)):
        if n_smallest <= n_slides:
            p = np.ones(n_slides)
            p[:n_smallest] = 1 / (n_normals + 1)
            assert bool(discoveries(p, q)[:n_smallest].any()) == (is_listed and n_smallest > 0)


@given(st.integers(1, 3000), st.integers(1, 50), st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.3]))
def test_so_many_normals_are_needed_and_no_fewer(n_slides: int, n_listed: int, q: float) -> None:
    n_listed = min(n_listed, n_slides)
    needed = normals_needed(n_slides, q, n_listed=n_listed)
    assert shortest_list(n_slides, needed, q) <= n_listed
    assert needed == 0 or shortest_list(n_slides, needed - 1, q) > n_listed


def test_a_rate_that_cannot_be_reached_is_refused_with_what_is_missing() -> None:
    check_normals(100, 9, 0.1)
    with pytest.raises(InputError, match=r"needs 9 normal slides .* has 8, so 1 are missing.* it takes 99"):
        check_normals(100, 8, 0.1)


@pytest.mark.parametrize(("share", "shift"), [(0.0, 0.0), (0.1, 2.0), (0.3, 2.0), (0.3, 4.0)])
@pytest.mark.parametrize("q", [0.1, 0.2])
def test_false_discoveries_are_few_in_simulated_archives(share: float, shift: float, q: float) -> None:
    """1,000 archives of 200 slides, each with a calibration of its own; the bound is q times the share of normals."""
    rng, n_slides, n_normals = np.random.default_rng(1), 200, 300
    n_abnormal, shares, found = round(share * n_slides), [], 0
    for _ in range(1000):
        scores = rng.normal(size=n_slides)
        scores[:n_abnormal] += shift
        called = discoveries(conformal(scores, rng.normal(size=n_normals)), q)
        shares.append(called[n_abnormal:].sum() / max(1, called.sum()))
        found += called[:n_abnormal].sum()
    bound, error = q * (1 - share), np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= bound + 3 * error
    assert share == 0 or found > 0
