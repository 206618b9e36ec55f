"""How many normal slides a rate needs, and the interval in which it lies: by hand, against SciPy, by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uadray.decisions.false_alarms import false_alarm_interval, normals_needed, rank_of


@settings(max_examples=300, deadline=None)
@given(alpha=st.floats(1e-6, 1, exclude_max=True))
def test_so_many_are_needed_and_one_fewer_are_not_enough(alpha: float) -> None:
    n = normals_needed(alpha)
    assert rank_of(alpha, n) >= 1
    assert n == 1 or rank_of(alpha, n - 1) == 0


def test_a_rate_near_nothing_needs_more_than_there_are() -> None:
    assert normals_needed(5e-324) >= 10**299


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 19), (0.05, 30), (0.2, 30), (0.1, 1000), (0.5, 1)])
def test_the_interval_is_that_of_a_beta_distribution(alpha: float, n: int) -> None:
    k = math.floor(alpha * (n + 1) + 1e-9)
    expected = stats.beta(k, n + 1 - k).interval(0.95)
    assert false_alarm_interval(alpha, n) == pytest.approx(expected)
    assert false_alarm_interval(alpha, n, level=0.5) == pytest.approx(stats.beta(k, n + 1 - k).interval(0.5))


def test_one_slide_by_hand() -> None:
    """One normal slide at alpha 0.5: the share above it is uniform."""
    assert false_alarm_interval(0.5, 1) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize("smoothed", [False, True])
def test_too_few_slides_call_none_unless_by_a_draw(smoothed: bool) -> None:
    """Seven slides at alpha 0.05: above them all a slide is called with probability 0.4, or never."""
    low, high = false_alarm_interval(0.05, 7, smoothed=smoothed)
    assert (low, high) == ((pytest.approx(0.4 * (1 - 0.975 ** (1 / 7))), pytest.approx(0.4 * (1 - 0.025 ** (1 / 7))))
                           if smoothed else (0.0, 0.0))  # fmt: skip


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 30), (0.05, 39), (0.2, 13), (0.97, 30), (0.3, 2)])
def test_the_interval_of_smoothed_decisions(alpha: float, n: int) -> None:
    """Against 100,000 draws of the n + 1 spacings; where n slides give a p-value of alpha, smoothing is nothing."""
    low, high = false_alarm_interval(alpha, n, smoothed=True)
    spacings = np.random.default_rng(0).dirichlet(np.ones(n + 1), 100_000)
    k = rank_of(alpha, n)
    part = alpha * (n + 1) - k
    rates = spacings[:, :k].sum(1) + part * spacings[:, k]
    assert ((low <= rates) & (rates <= high)).mean() == pytest.approx(0.95, abs=0.003)
    assert (rates < low).mean() == pytest.approx(0.025, abs=0.002)
    assert rates.mean() == pytest.approx(alpha, abs=0.002)
    if part < 1e-9:
        assert (low, high) == false_alarm_interval(alpha, n)
