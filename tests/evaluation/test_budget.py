"""A reader's days by hand, and whether the intervals of what is found hold."""

import numpy as np
import pytest
from judged_slides import judged

from uadray.errors import InputError
from uadray.evaluation.budget import _after, budget


def test_days_by_hand() -> None:
    """Ten slides, five of them anomalous, three a day: two, four, then all five are found."""
    plan = budget(judged("AANaannnan"), 3)
    told = [(day["day"], day["read"], day["found"], day["missed"], day["found_share"]) for day in plan["days"]]
    assert told == [(1, 3, 2, 3, 0.4), (2, 6, 4, 1, 0.8), (3, 9, 5, 0, 1.0), (4, 10, 5, 0, 1.0)]
    assert [day["at_random"] for day in plan["days"]] == pytest.approx([1.5, 3.0, 4.5, 5.0])
    assert (plan["slides"], plan["anomalous"], plan["days_for_all"]) == (10, 5, 4)
    assert plan["days"][-1]["found_share_ci95"] == [1.0, 1.0], "who reads all of them finds all"
    assert plan["curve"][:4] == [[0.0, 0.0], [0.1, 0.2], [0.2, 0.4], [0.3, 0.4]]


def test_cuts_by_hand() -> None:
    plan = budget(judged("AANaannnan"), 3)
    cuts = {cut["rule"]: cut for cut in plan["cuts"]}
    assert list(cuts) == ["decisions", "yield", "sensitivity_95", "sensitivity_99"]
    told = {
        name: (cut["read"], cut["days"], cut["found"], cut["missed"], cut["normal_read"]) for name, cut in cuts.items()
    }
    assert told["decisions"] == (3, 1, 2, 3, 1)
    assert told["yield"] == (5, 2, 4, 1, 1), "the fifth is where found less normal read is most"
    assert told["sensitivity_95"] == told["sensitivity_99"] == (9, 3, 5, 0, 4)
    assert (plan["recommended"], cuts["decisions"]["needs_labels"], cuts["yield"]["needs_labels"]) == (
        "decisions",
        False,
        True,
    )
    assert cuts["sensitivity_95"]["found_share_ci95"] is None, "the rule fixes it"
    assert cuts["sensitivity_95"]["read_share_ci95"][0] < 0.9 <= cuts["sensitivity_95"]["read_share_ci95"][1]


def test_q_values_cut_where_decisions_have_them() -> None:
    q_values = [0.01, 0.05, 0.09, 0.2, 0.3, None, 0.9, 0.9, 0.9, 0.9]
    plan = budget(judged("AANaannnan", q_value=q_values), 3)
    cut = next(cut for cut in plan["cuts"] if cut["rule"] == "false_discoveries")
    assert (cut["read"], cut["found"], plan["recommended"]) == (3, 2, "false_discoveries")


def test_trivial_scores_order_the_list_too() -> None:
    """By the number of tissue tiles the anomalous ones come last."""
    tiles = [1, 2, 30, 3, 4, 60, 70, 80, 5, 90]
    plan = budget(judged("AANaannnan", n_tiles=tiles), 5)
    assert [day["trivial"] for day in plan["days"]] == [{"tissue_tiles": 0}, {"tissue_tiles": 5}]
    alike = budget(judged("AANaannnan", n_tiles=[7] * 10), 5)["days"]
    assert [day["trivial"] for day in alike] == [{"tissue_tiles": 2.5}, {"tissue_tiles": 5}], "as in random order"
    partly = [None, *tiles[1:]]
    assert budget(judged("AANaannnan", n_tiles=partly), 5)["days"][0]["trivial"] == {}


def test_slides_without_a_score_are_told() -> None:
    plan = budget(judged("Anna"), 2, unscored=3, unscored_anomalous=1)
    assert (plan["unscored"], plan["unscored_anomalous"], plan["slides"]) == (3, 1, 4)


@pytest.mark.parametrize("letters", ["AAAA", "nnnn"])
def test_slides_of_one_class_are_refused(letters: str) -> None:
    with pytest.raises(InputError, match="needs normal and anomalous slides; found"):
        budget(judged(letters), 2)


def test_what_a_draw_finds_in_the_first_slides() -> None:
    """The second slide was drawn three times, of which two are read as the last."""
    weights, truth = np.array([[1.0, 3.0, 0.0, 2.0]]), np.array([False, True, True, True])
    assert _after(weights, truth, 3) == pytest.approx([2 / 5])
    assert _after(weights, truth, 4) == pytest.approx([3 / 5])
    assert _after(weights, truth, 6) == pytest.approx([1.0])
    assert _after(weights, truth, 9) == pytest.approx([1.0])


def test_the_interval_of_what_is_found_holds_the_truth() -> None:
    """Two slides of each patient, alike; the share found in the first 30 of 120 is that of 40,000 slides."""
    rng, hits, n = np.random.default_rng(0), 0, 40
    ill = rng.random(40_000) < 0.25
    scores = rng.normal(size=40_000) + 1.5 * ill
    truth = ill[np.argsort(-scores)[:10_000]].sum() / ill.sum()
    for _ in range(n):
        patient = np.repeat(np.arange(60), 2)
        anomalous = rng.random(60)[patient] < 0.25
        own = rng.normal(size=60)[patient] * 0.9 + rng.normal(size=120) * np.sqrt(1 - 0.81) + 1.5 * anomalous
        order = np.argsort(-own)
        letters = "".join("a" if anomalous[i] else "n" for i in order)
        found = budget(judged(letters, patient_id=[f"p{patient[i]}" for i in order]), 30)["days"][0]
        low, high = found["found_share_ci95"]
        hits += low <= truth <= high
    assert hits >= 0.85 * n
