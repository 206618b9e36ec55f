"""Draws of whole groups: what they are computed to, against scikit-learn, and how often their intervals hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from uadray.evaluation.operating import (
    Counts,
    aurocs,
    average_precisions,
    counts_of,
    precision_points,
    roc_points,
    saved_shares,
    sensitivities,
    workload_points,
)
from uadray.evaluation.resampling import drawn_weights, percentiles, resampled, share_interval

samples = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), min_size=2, max_size=60)


@settings(max_examples=150, deadline=None)
@given(rows=samples)
def test_weighted_figures_equal_scikit_learns(rows: list[tuple[int, bool, int]]) -> None:
    scores, anomalous, weight = (np.array(column) for column in zip(*rows, strict=True))
    repeated, truth = np.repeat(scores, weight).astype(float), np.repeat(anomalous, weight)
    if truth.all() or not truth.any():
        return
    counts, distinct = counts_of(repeated, truth)
    both = Counts(np.stack([counts.normal] * 2), np.stack([counts.anomalous] * 2))
    assert aurocs(both) == pytest.approx([roc_auc_score(truth, repeated)] * 2, abs=1e-12)
    assert average_precisions(both) == pytest.approx([average_precision_score(truth, repeated)] * 2, abs=1e-12)
    cuts = [*distinct, np.inf]
    called = [(float((repeated[~truth] >= t).mean()), float((repeated[truth] >= t).mean())) for t in cuts]
    assert sensitivities(both, 0.9) == pytest.approx([max(t for f, t in called if f <= 0.1 + 1e-9)] * 2)
    assert saved_shares(both, 0.8) == pytest.approx([max(1 - f for f, t in called if t >= 0.8 - 1e-9)] * 2)


def test_curves_by_hand() -> None:
    """From the top: anomalous 4, normal 3, both 2, normal 1."""
    scores = np.array([4.0, 3.0, 2.0, 2.0, 1.0])
    anomalous = np.array([True, False, True, False, False])
    counts, distinct = counts_of(scores, anomalous)
    assert distinct.tolist() == [4, 3, 2, 1]
    assert np.array(roc_points(counts)) == pytest.approx(
        np.array([[0, 0], [0, 0.5], [1 / 3, 0.5], [2 / 3, 1], [1, 1]]), abs=1e-6
    )
    assert precision_points(counts) == [[0.5, 1.0], [0.5, 0.5], [1.0, 0.5], [1.0, 0.4]]
    assert np.array(workload_points(counts)) == pytest.approx(np.array([[0, 1], [0.5, 1], [1, 1 / 3]]), abs=1e-6)


def test_curves_of_many_samples_have_few_points_and_both_ends() -> None:
    rng = np.random.default_rng(0)
    scores, anomalous = rng.normal(size=30_000), rng.random(30_000) < 0.1
    points = np.array(roc_points(counts_of(scores, anomalous)[0]))
    assert len(points) <= 402
    assert (points[0].tolist(), points[-1].tolist()) == ([0, 0], [1, 1])
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(roc_auc_score(anomalous, scores), abs=0.005)


def test_putting_scores_together_moves_an_auroc_by_very_little(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    anomalous = rng.random(20_000) < 0.3
    scores, groups = rng.normal(size=20_000) + anomalous, np.array([f"s{i % 50}" for i in range(20_000)])
    binned = np.concatenate([aurocs(c) for c in resampled(scores, anomalous, groups=groups, draws=20)])
    monkeypatch.setattr("uadray.evaluation.resampling.MOST_SCORES", 10**6)
    exact = np.concatenate([aurocs(c) for c in resampled(scores, anomalous, groups=groups, draws=20)])
    assert len(exact) == 20
    assert 0 < np.abs(binned - exact).max() < 1e-4


def test_each_draw_has_as_many_groups_as_there_are() -> None:
    weights = np.concatenate(list(drawn_weights(7, seed=0, width=10**6, draws=50)))
    assert weights.shape == (50, 7)
    assert (weights.sum(1) == 7).all()
    assert weights.mean() == 1
    assert weights.std() > 0.5


def coverage(*, shared: float, is_grouped: bool, n: int, seed: int) -> float:
    """How often the 95 % interval holds the true AUROC, with two slides of each of 50 patients, half of them ill."""
    rng, hits, truth = np.random.default_rng(seed), 0, norm.cdf(1 / np.sqrt(2))
    anomalous, patient = np.arange(100) >= 50, np.repeat(np.arange(50), 2)
    groups = np.array([f"p{i}" for i in patient]) if is_grouped else None
    for _ in range(n):
        common = rng.normal(size=50)[patient]
        scores = common * np.sqrt(shared) + rng.normal(size=100) * np.sqrt(1 - shared) + anomalous
        drawn = [aurocs(counts) for counts in resampled(scores, anomalous, groups=groups, draws=400)]
        low, high = percentiles(np.concatenate(drawn)) or (1.0, 0.0)
        hits += low <= truth <= high
    return hits / n


def test_intervals_of_independent_slides_hold_the_truth() -> None:
    assert 0.9 <= coverage(shared=0.0, is_grouped=False, n=200, seed=0) <= 0.985


def test_intervals_by_patient_hold_the_truth_and_those_by_slide_do_not() -> None:
    assert 0.9 <= coverage(shared=0.9, is_grouped=True, n=200, seed=1) <= 0.985
    assert coverage(shared=0.9, is_grouped=False, n=100, seed=2) < 0.89


def test_a_share_that_no_draw_changes_has_an_exact_interval() -> None:
    assert share_interval(1.0, np.ones(10), 8) == pytest.approx([0.025 ** (1 / 8), 1.0])
    assert share_interval(0.0, np.zeros(10), 8) == pytest.approx([0.0, 1 - 0.025 ** (1 / 8)])
    assert share_interval(0.5, np.array([0.5, 0.5]), 8) == [0.5, 0.5]
    assert share_interval(1.0, np.empty(0), 1) is None
