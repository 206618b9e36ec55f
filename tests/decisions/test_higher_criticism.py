"""Higher Criticism by the paper's formula, one p-value after the other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.decisions.higher_criticism import higher_criticism

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def _slowly(p: list[float]) -> float:
    """Donoho and Jin 2004, eq. 1.2, over the smaller half; p-values below 1 / n count as 1 / (n + 1)."""
    n = len(p)
    best = -math.inf
    for i, value in enumerate(sorted(p)[: max(1, n // 2)], 1):
        bounded = min(max(value, 1 / (n + 1)), n / (n + 1))
        best = max(best, math.sqrt(n) * (i / n - bounded) / math.sqrt(bounded * (1 - bounded)))
    return best


@given(p=P_VALUES)
@settings(max_examples=100, deadline=None)
def test_as_the_formula(p: list[float]) -> None:
    assert higher_criticism(np.array(p)) == pytest.approx(_slowly(p))


@given(p=P_VALUES, place=st.integers(0, 39), factor=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_smaller_p_value_never_makes_it_less(p: list[float], place: int, factor: float) -> None:
    smaller = list(p)
    smaller[place % len(p)] *= factor
    assert higher_criticism(np.array(smaller)) >= higher_criticism(np.array(p)) - 1e-9


def test_a_few_small_p_values_among_many_are_seen() -> None:
    """Ten of 2,000 squares: Higher Criticism tells such slides from normal ones, the mean p-value does not."""
    rng = np.random.default_rng(0)
    normal = [rng.uniform(size=2000) for _ in range(40)]
    sparse = [np.append(rng.uniform(size=1990), rng.uniform(0, 1e-3, 10)) for _ in range(40)]
    assert np.quantile([higher_criticism(p) for p in normal], 0.9) < np.quantile(
        [higher_criticism(p) for p in sparse], 0.1
    )
    assert np.mean(np.mean(normal, 1) > np.median(np.mean(sparse, 1))) < 0.8
