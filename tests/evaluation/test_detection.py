"""Metrics against scikit-learn, by hand, and where a class is missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from uadray.errors import InputError
from uadray.evaluation.detection import auroc, auroc_difference, bootstrap_ci, detection, sensitivity_at
from uadray.evaluation.operating import aurocs, counts_of


def _bools(text: str) -> np.ndarray:
    return np.array([c == "A" for c in text])


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 3, 4], "NNAA", 1.0),
        ([4, 3, 2, 1], "NNAA", 0.0),
        ([1, 1, 1, 1], "NNAA", 0.5),
        ([1, 2, 2, 3], "NNAA", 0.875),  # pairs: 1<2, 1<3, 2=2 (half), 2<3: 3.5 of 4
        ([1, 2, 3], "NNN", None),
        ([1, 2, 3], "AAA", None),
    ],
)
def test_auroc_by_hand(scores: list[float], labels: str, expected: float | None) -> None:
    assert auroc(np.array(scores, float), _bools(labels)) == expected


@pytest.mark.parametrize(
    ("scores", "labels", "specificity", "expected"),
    [
        # 20 normals 0..19 and four anomalies: one false alarm (19) is allowed, so all above 18 are found
        ([*range(20), 18.5, 19.5, 25, 3], "N" * 20 + "AAAA", 0.95, 0.75),
        ([*range(20), 18.5, 19.5, 25, 3], "N" * 20 + "AAAA", 1.0, 0.5),
        # 19 normals: not one may be called, since 1 / 19 > 5 %
        ([*range(19), 17.5, 18.5], "N" * 19 + "AA", 0.95, 0.5),
        # every score is one normal and one anomaly: one false alarm of 20 finds one of 20
        ([*range(20), *range(20)], "N" * 20 + "A" * 20, 0.95, 0.05),
        ([1.0] * 40, "N" * 20 + "A" * 20, 0.95, 0.0),
    ],
)
def test_sensitivity_by_hand(scores: list[float], labels: str, specificity: float, expected: float) -> None:
    assert sensitivity_at(np.array(scores, float), _bools(labels), specificity=specificity) == expected


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=50))
def test_sensitivity_against_every_threshold(rows: list[tuple[int, bool]]) -> None:
    scores, anomalous = (np.array(column) for column in zip(*rows, strict=True))
    if anomalous.all() or not anomalous.any():
        return
    cuts = [*np.unique(scores), np.inf]
    allowed = [t for t in cuts if (scores[~anomalous] < t).mean() >= 0.9 - 1e-12]
    expected = max((scores[anomalous] >= t).mean() for t in allowed)
    assert sensitivity_at(scores.astype(float), anomalous, specificity=0.9) == pytest.approx(expected)


def test_detection_has_every_field() -> None:
    result = detection(np.array([1.0, 2.0, 3.0, 2.5, 4.0]), _bools("NNNAA"))
    assert result["auroc"] == pytest.approx(5 / 6)
    assert (result["n_normal"], result["n_anomalous"]) == (3, 2)
    assert result["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["sensitivity_at_95_specificity"] == 0.5
    low, high = result["auroc_ci95"]
    assert 0 <= low <= result["auroc"] <= high <= 1


@pytest.mark.parametrize(
    ("labels", "counts"), [("NNN", "3 normal and 0 anomalous"), ("AA", "0 normal and 2 anomalous")]
)
def test_one_class_is_refused(labels: str, counts: str) -> None:
    with pytest.raises(InputError, match=f"needs normal and anomalous samples; found {counts}"):
        detection(np.arange(len(labels), dtype=float), _bools(labels))


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    """Two normals a unit apart: the true AUROC is Phi(1 / sqrt 2) = 0.7602. 25 experiments, 100 samples each."""
    rng = np.random.default_rng(0)
    anomalous = np.arange(100) < 50
    hits = 0
    for _ in range(25):
        low, high = bootstrap_ci(rng.normal(size=100) + anomalous, anomalous) or (0.0, 0.0)
        hits += low <= 0.7602 <= high
    assert hits >= 21, "fewer than 21 of 25 happen once in 100 times, were it 95 %"


def test_the_interval_is_the_same_every_time() -> None:
    scores, anomalous = np.random.default_rng(1).normal(size=30), np.arange(30) < 9
    assert bootstrap_ci(scores, anomalous) == bootstrap_ci(scores, anomalous)


def test_tiles_of_one_slide_are_drawn_together() -> None:
    """Ten slides repeated twentyfold are ten observations: the interval is that of ten, not of two hundred."""
    rng = np.random.default_rng(0)
    scores, anomalous = rng.normal(size=10) + np.arange(10) % 2, np.arange(10) % 2 == 1
    many, truth, slides = (np.repeat(a, 20) for a in (scores, anomalous, np.array([f"s{i}" for i in range(10)])))
    grouped = bootstrap_ci(many, truth, groups=slides)
    alone = bootstrap_ci(many, truth)
    assert grouped is not None
    assert alone is not None
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])
    assert grouped == pytest.approx(bootstrap_ci(scores, anomalous), abs=0.05)


@pytest.mark.parametrize(
    ("labels", "groups", "has_interval"),
    [
        ("NA", ["a", "b"], False),
        ("NNNNA", ["a", "b", "c", "d", "e"], False),
        ("NNNAAA", ["a", "b", "c", "d", "d", "d"], False),  # three anomalies, one slide
        ("NANA", ["a", "a", "a", "a"], False),
        ("NNAA", ["a", "b", "c", "d"], True),
        ("NANA", ["a", "a", "b", "b"], True),
    ],
)
def test_a_class_in_one_group_has_no_interval(labels: str, groups: list[str], has_interval: bool) -> None:
    """Every draw would hold the same one: how much the next would differ, nothing tells."""
    interval = bootstrap_ci(np.arange(len(labels), dtype=float), _bools(labels), groups=np.array(groups))
    assert (interval is not None) == has_interval


def test_a_draw_of_one_class_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two and two, one draw in eight has one class: all the same each quantile is of as many draws as were asked."""
    drawn = []
    monkeypatch.setattr(
        "uadray.evaluation.resampling.np.quantile", lambda values, _: drawn.append(len(values)) or [0, 1]
    )
    bootstrap_ci(np.arange(4.0), _bools("NNAA"))
    assert drawn == [1000]


def test_the_difference_of_two_aurocs_against_resampled_pairs() -> None:
    rng = np.random.default_rng(1)
    anomalous = np.repeat([False, True], [150, 120])
    shared = rng.normal(size=270) + anomalous
    scores, others = np.round(shared + 0.3 * rng.normal(size=270), 1), np.round(shared + rng.normal(size=270), 1)
    found = auroc_difference(scores, others, anomalous)
    assert found["difference"] == pytest.approx(roc_auc_score(anomalous, scores) - roc_auc_score(anomalous, others))
    drawn = []
    for _ in range(600):
        rows = np.concatenate([rng.integers(0, 150, 150), rng.integers(150, 270, 120)])
        of_both = [aurocs(counts_of(each[rows], anomalous[rows])[0]) for each in (scores, others)]
        drawn.append(float(of_both[0] - of_both[1]))
    assert found["ci95"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)
    alone = np.diff(bootstrap_ci(scores, anomalous) or [])[0]
    assert np.diff(found["ci95"])[0] < 1.2 * alone, "paired: what makes a sample hard for both does not count"


def test_the_difference_from_itself_is_none() -> None:
    scores = np.array([1.0, 2.0, 2.0, 3.0])
    assert auroc_difference(scores, scores, _bools("NANA")) == {"difference": 0.0, "ci95": [0.0, 0.0]}
    assert auroc_difference(scores, scores, _bools("NNNA"))["ci95"] is None
