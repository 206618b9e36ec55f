"""Two screenings compared: by hand, paired, and refused."""

import numpy as np
import pytest
from judged_slides import judged
from sklearn.metrics import roc_auc_score

from uadray.errors import InputError
from uadray.evaluation.comparison import compared, paired_figures


def test_a_comparison_by_hand() -> None:
    """Here all three anomalous slides are called and one normal one; there two of the anomalous ones."""
    here, there = judged("AANAnn"), judged("AAnann")
    found = compared(here, there, name="other")
    assert (found["against"], found["slides"], found["only_here"], found["only_there"]) == ("other", 6, 0, 0)
    assert found["figures"]["auroc"]["difference"] == 0.0
    ill, normal = found["calls"]["anomalous"], found["calls"]["normal"]
    assert (ill["both"], ill["only_here"], ill["only_there"], ill["neither"], ill["p_value"]) == (2, 1, 0, 0, 1.0)
    assert (normal["both"], normal["only_here"], normal["only_there"], normal["neither"]) == (0, 1, 0, 2)


def test_only_slides_that_both_have_scored_are_compared() -> None:
    here, there = judged("AANAnn"), judged("AAnann")
    found = compared(here.only([0, 1, 2, 4]), there.only([1, 2, 3, 4, 5]), name="other")
    assert (found["slides"], found["only_here"], found["only_there"]) == (3, 1, 2)


def test_what_cannot_be_compared_is_refused() -> None:
    here = judged("AANAnn")
    with pytest.raises(InputError, match="other: none of its scored slides has a label and a score here"):
        compared(here.only([0, 2]), here.only([1, 3]), name="other")
    with pytest.raises(InputError, match="slides that other has scored too; found 0 normal and 2 anomalous"):
        compared(here, here.only([0, 1]), name="other")


def test_paired_intervals_are_narrower_and_hold() -> None:
    """What makes a slide hard for both is no difference. 60 experiments with two scores that are equally good."""
    rng, hits, n = np.random.default_rng(0), 0, 60
    anomalous, patient = np.arange(120) % 4 < 2, np.repeat(np.arange(60), 2)
    groups = np.array([f"p{i}" for i in patient])
    for _ in range(n):
        shared = 1.5 * rng.normal(size=60)[patient] + anomalous
        scores, others = shared + rng.normal(size=120), shared + rng.normal(size=120)
        found = paired_figures(scores, others, anomalous, groups, draws=200)
        low, high = found["auroc"]["ci95"]
        hits += low <= 0 <= high
    assert hits >= 0.85 * n
    assert found["auroc"]["here"] == pytest.approx(roc_auc_score(anomalous, scores))
    assert set(found) == {
        "auroc", "average_precision", "sensitivity_at_95_specificity", "workload_saved_at_95_sensitivity",
    }  # fmt: skip
    alone = paired_figures(scores, rng.normal(size=120), anomalous, groups, draws=200)["auroc"]["ci95"]
    assert high - low < 0.8 * (alone[1] - alone[0])


def test_a_screening_does_not_differ_from_itself() -> None:
    one = judged("AaNAnan")
    found = compared(one, one, name="itself")
    assert all(each["ci95"] == [0.0, 0.0] for each in found["figures"].values())
    assert found["delong"]["p_value"] == 1.0
