"""Intervals beyond thresholds that few samples tell: they hold the truth where the bootstrap does not."""

import numpy as np
import pytest
from scipy.stats import beta, norm

from uadray.evaluation.operating import saved_shares
from uadray.evaluation.performance import performance
from uadray.evaluation.resampling import percentiles, resampled
from uadray.evaluation.tails import beyond_interval, is_few, needed


def test_ten_normal_slides_do_not_bound_a_threshold_that_five_per_cent_are_above() -> None:
    normal, anomalous = np.arange(10.0), np.arange(20.0) + 3.5  # 16 of 20 above 6.5
    low, high = beyond_interval(anomalous, normal, 0.05, n=20, n_others=10)
    assert low == 0.0, "the threshold may lie above all scores that were seen"
    # at most two of ten are above the threshold with a probability of 98.85 %: it is 7 at the least
    assert high == pytest.approx(beta_end(16 / 20, 20))


def beta_end(share: float, n: int) -> float:
    return float(beta.ppf(1 - 0.0125, share * n + 1, n - share * n))


def test_how_many_are_needed() -> None:
    assert 0.95 ** needed(0.05) < 0.0125 < 0.95 ** (needed(0.05) - 1)
    assert (is_few(39, 0.05), is_few(40, 0.05), is_few(100, 0.01)) == (True, False, True)
    rng = np.random.default_rng(0)
    for n, is_bounded in ((needed(0.05) - 1, False), (needed(0.05), True)):
        low, _ = beyond_interval(rng.normal(size=200) + 9, rng.normal(size=n), 0.05, n=200, n_others=n)
        assert (low > 0) == is_bounded


def test_workload_saved_with_ten_anomalous_slides() -> None:
    """A bootstrap cannot draw a score below the lowest: its 95 % interval holds the truth about every other time."""
    rng, n, truth = np.random.default_rng(0), 150, norm.cdf(2 - norm.isf(0.05))
    anomalous, hits, of_bootstrap = np.arange(110) >= 100, 0, 0
    for _ in range(n):
        scores = rng.normal(size=110) + 2 * anomalous
        low, high = beyond_interval(-scores[~anomalous], -scores[anomalous], 0.05, n=100, n_others=10)
        hits += low <= truth <= high
        drawn = [saved_shares(counts, 0.95) for counts in resampled(scores, anomalous, draws=200)]
        low, high = percentiles(np.concatenate(drawn)) or (1.0, 0.0)
        of_bootstrap += low <= truth <= high
    assert hits >= 0.95 * n
    assert of_bootstrap <= 0.7 * n


@pytest.mark.parametrize(
    ("n", "methods"),
    [
        (30, ["bootstrap", "exact", "exact", "exact", "exact"]),
        (60, ["bootstrap", "bootstrap", "exact", "bootstrap", "exact"]),
    ],
)
def test_figures_say_how_their_intervals_were_made(n: int, methods: list[str]) -> None:
    rng, anomalous = np.random.default_rng(0), np.arange(2 * n) % 2 == 1
    figures = performance(rng.normal(size=2 * n) + anomalous, anomalous)
    told = [*figures["sensitivity"].values(), *figures["workload"].values()]
    assert [each["method"] for each in told] == methods
    for each in told:
        assert each["ci95"][0] <= each["value"] <= each["ci95"][1]
