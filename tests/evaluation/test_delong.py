"""DeLong's and Obuchowski's variances against their definitions, and how often their intervals hold the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from uadray.evaluation.delong import auroc_interval, paired_difference, placements, variance
from uadray.evaluation.intervals import exact_interval, newcombe_interval


def wins(scores: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """[anomalous, normal] 1 where the anomalous one is higher, a half where both are equal."""
    a, n = scores[anomalous][:, None], scores[~anomalous][None]
    return (a > n) + (a == n) / 2


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=4, max_size=40))
def test_placements_and_variance_by_their_definition(rows: list[tuple[int, bool]]) -> None:
    """DeLong et al. 1988, eq. 4 and 5: sample variances of the means over the pairs of each sample."""
    scores, anomalous = (np.array(column) for column in zip(*rows, strict=True))
    if min(anomalous.sum(), (~anomalous).sum()) < 2:
        return
    pairs = wins(scores, anomalous)
    placed = placements(scores.astype(float), anomalous)
    assert placed[anomalous].mean() == pytest.approx(roc_auc_score(anomalous, scores), abs=1e-12)
    assert placed[~anomalous].mean() == pytest.approx(roc_auc_score(anomalous, scores), abs=1e-12)
    expected = pairs.mean(1).var(ddof=1) / len(pairs) + pairs.mean(0).var(ddof=1) / pairs.shape[1]
    assert variance(placed, anomalous) == pytest.approx(expected, abs=1e-12)
    alone = np.array([f"g{i}" for i in range(len(scores))])
    assert variance(placed, anomalous, alone) == pytest.approx(expected, abs=1e-12)


def test_the_clustered_variance_by_obuchowskis_sums() -> None:
    """Three patients by hand: sums of placements less the AUROC, by patient and class."""
    scores = np.array([1.0, 3.0, 2.0, 4.0, 2.5, 0.5])
    anomalous = np.array([False, True, False, True, True, False])
    groups = np.array(["p", "p", "q", "q", "r", "r"])
    # placements: 3 -> 1, 4 -> 1, 2.5 -> 1; all normal ones lie below all anomalous ones
    assert placements(scores, anomalous).tolist() == [1.0] * 6
    scores[4] = 1.5  # r's anomalous one now lies below q's normal one: AUROC 8/9
    placed = placements(scores, anomalous)
    assert placed == pytest.approx([1, 1, 2 / 3, 1, 2 / 3, 1])
    of_ill = np.array([1, 1, 2 / 3]) - 8 / 9
    of_normal = np.array([1, 2 / 3, 1]) - 8 / 9
    expected = 3 / 2 * (of_ill**2).sum() / 9 + 3 / 2 * (of_normal**2).sum() / 9
    expected += 2 * 3 / 2 * (of_ill * of_normal).sum() / 9
    assert variance(placed, anomalous, groups) == pytest.approx(expected)


def clustered(rng: np.random.Generator, *, n_patients: int, shared: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three slides of each patient, of which the second half is ill in two; the true AUROC is Phi(1.2 / sqrt 2)."""
    patient = np.repeat(np.arange(n_patients), 3)
    anomalous = (patient >= n_patients // 2) & (np.arange(3 * n_patients) % 3 < 2)
    common = rng.normal(size=n_patients)[patient] * np.sqrt(shared)
    scores = common + rng.normal(size=3 * n_patients) * np.sqrt(1 - shared) + 1.2 * anomalous
    return scores, anomalous, np.array([f"p{i}" for i in patient])


def test_intervals_hold_the_truth_about_95_times_in_100() -> None:
    rng, truth, n = np.random.default_rng(0), norm.cdf(1.2 / np.sqrt(2)), 600
    hits = {"plain": 0, "grouped": 0, "ignored": 0}
    for _ in range(n):
        scores, anomalous, groups = clustered(rng, n_patients=40, shared=0.0)
        low, high = auroc_interval(scores, anomalous)["ci95"]
        hits["plain"] += low <= truth <= high
        scores, anomalous, groups = clustered(rng, n_patients=40, shared=0.8)
        low, high = auroc_interval(scores, anomalous, groups=groups)["ci95"]
        hits["grouped"] += low <= truth + between_patients(0.8) <= high
        low, high = auroc_interval(scores, anomalous)["ci95"]
        hits["ignored"] += low <= truth + between_patients(0.8) <= high
    assert 0.925 * n <= hits["plain"] <= 0.975 * n
    assert 0.92 * n <= hits["grouped"] <= 0.98 * n
    assert hits["ignored"] < 0.9 * n, "patients have too little in common for this test to mean something"


def between_patients(shared: float) -> float:
    """How far the true AUROC of `clustered` with 40 patients lies above that of independent slides.

    The 40 anomalous and 80 normal slides have 3,200 pairs; in 40 both are of one patient, whose share is in both.
    """
    return 40 / 3200 * float(norm.cdf(1.2 / np.sqrt(2 * (1 - shared))) - norm.cdf(1.2 / np.sqrt(2)))


def test_ties_count_half_in_the_interval_too() -> None:
    """Scores of three values: the true AUROC is known by counting, and the interval holds it."""
    rng, n = np.random.default_rng(1), 500
    of_normal, of_ill = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    truth = sum(a * (of_normal[:i].sum() + of_normal[i] / 2) for i, a in enumerate(of_ill))
    anomalous, hits = np.arange(90) < 40, 0
    for _ in range(n):
        scores = np.where(anomalous, rng.choice(3, 90, p=of_ill), rng.choice(3, 90, p=of_normal)).astype(float)
        low, high = auroc_interval(scores, anomalous)["ci95"]
        hits += low <= truth <= high
    assert 0.925 * n <= hits <= 0.975 * n


def test_scores_that_all_tie_have_newcombes_interval_around_a_half() -> None:
    found = auroc_interval(np.ones(20), np.arange(20) < 8)
    assert found["method"] == "Newcombe"
    assert found["ci95"][0] < 0.3
    assert found["ci95"][1] > 0.7


def test_where_all_pairs_are_in_order_the_interval_has_a_width() -> None:
    """DeLong's variance is 0 there. Newcombe's end solves (1 - v)^2 = 1.96^2 V(v), with V of Hanley and McNeil."""
    found = auroc_interval(np.arange(16.0), np.arange(16) >= 8)
    low, high = found["ci95"]
    assert (found["method"], high) == ("Newcombe", 1.0)
    spread = low * (1 - low) / 64 * (1 + 7 * ((1 - low) / (2 - low) + low / (1 + low)))
    assert (1 - low) ** 2 == pytest.approx(1.959964**2 * spread, abs=1e-9)
    assert newcombe_interval(0.0, 8, 8) == pytest.approx([0.0, 1 - low])
    few = auroc_interval(np.arange(16.0), np.arange(16) >= 8, groups=np.array([f"p{i // 4}" for i in range(16)]))
    assert few["ci95"][0] < low, "two patients a class tell less than eight"


def test_a_class_in_one_group_has_no_interval() -> None:
    scores, anomalous = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])
    groups = np.array(["a", "b", "c", "c"])
    assert auroc_interval(scores, anomalous, groups=groups) == {"ci95": None, "method": "none"}
    nothing = {"difference": None, "ci95": None, "p_value": None}
    assert paired_difference(scores, scores, anomalous, groups=groups) == nothing
    assert paired_difference(scores[:3], scores[:3], np.zeros(3, bool)) == nothing


def test_no_difference_is_found_five_times_in_100() -> None:
    """Two scores of the same slides that are as good as each other; patients share much of both."""
    rng, n, grouped, ignored = np.random.default_rng(3), 400, 0, 0
    for _ in range(n):
        scores, anomalous, groups = clustered(rng, n_patients=40, shared=0.8)
        others, *_ = clustered(rng, n_patients=40, shared=0.8)
        grouped += paired_difference(scores, others, anomalous, groups=groups)["p_value"] < 0.05
        ignored += paired_difference(scores, others, anomalous)["p_value"] < 0.05
    assert 0.025 * n <= grouped <= 0.085 * n
    assert ignored > 0.1 * n
    better, anomalous, groups = clustered(rng, n_patients=80, shared=0.2)
    worse = better + 2 * rng.normal(size=len(better))
    found = paired_difference(better, worse, anomalous, groups=groups)
    assert found["difference"] == pytest.approx(roc_auc_score(anomalous, better) - roc_auc_score(anomalous, worse))
    assert found["ci95"][0] > 0
    assert found["p_value"] < 0.01


def test_exact_intervals_of_shares() -> None:
    assert exact_interval(0, 10) == pytest.approx([0.0, 1 - 0.025 ** (1 / 10)])
    assert exact_interval(3, 8) == pytest.approx([0.0852, 0.7551], abs=1e-4)  # as in tables
