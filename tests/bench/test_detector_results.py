"""Results of `bench detectors`: means of seeds, goals, and what is kept from run to run."""

from pathlib import Path
from typing import Any

import pytest

from uadray.bench.detector_results import (
    GOALS,
    RECOMMENDED,
    by_auroc,
    csv_of,
    goals_met,
    joined,
    keep,
    kept,
    labelled,
    result_path,
)


def _result(seed: int, auroc: float, **slides: float) -> dict[str, Any]:
    tiles = {"auroc": auroc, "auroc_ci95": [auroc - 0.01, auroc + 0.02], "sensitivity_at_95_specificity": 0.5}
    of_slides = {"test": {"auroc": 1.0, "called": 8, "false_alarms": 0}, "small": {"called": 12, "false_alarms": 1}}
    of_slides["small"] |= slides
    figures = {"tiles": tiles, "slides": of_slides, "roc": [[0.0, 1.0], [0.0, 1.0]]}
    figures |= {"shifted": {"swapped": {"drop": 0.01}, "faded": {"drop": -0.01}}}
    return {"seed": seed, "group": "detector", "figures": figures}


def test_a_row_is_the_mean_of_its_seeds() -> None:
    row = joined(
        "a", [_result(0, 0.8), {"seed": 1, "group": "detector", "failed": "DivergedError: x"}, _result(2, 0.9)]
    )
    assert row["seeds"] == [0, 2]
    assert row["mean"]["tiles"]["auroc"] == pytest.approx(0.85)
    assert row["mean"]["tiles"]["auroc_ci95"] == pytest.approx([0.84, 0.87])
    assert [one["tiles"]["auroc"] for one in row["by_seed"]] == [0.8, 0.9]
    assert row["failed"] == {"1": "DivergedError: x"}
    assert csv_of([row]).splitlines()[1].startswith("a,detector,,2,0.84")
    assert csv_of([row]).splitlines()[1].endswith("seed 1: DivergedError: x")


def test_goals_are_those_of_the_recommended_detector() -> None:
    good = joined(RECOMMENDED, [_result(0, 0.88), _result(1, 0.90)])
    assert goals_met([good]) is True
    assert goals_met([joined("other", [_result(0, 0.5)])]) is None
    assert goals_met([joined(RECOMMENDED, [_result(0, 0.87), _result(1, 0.88)])]) is False
    assert goals_met([joined(RECOMMENDED, [_result(0, 0.9, false_alarms=2)])]) is False
    assert goals_met([joined(RECOMMENDED, [{"seed": 0, "group": "detector", "failed": "x"}])]) is False
    assert len(GOALS) == 9


def test_rows_by_auroc() -> None:
    rows = [joined("failed", [{"seed": 0, "group": "detector", "failed": "x"}])]
    rows += [joined(name, [_result(0, auroc)]) for name, auroc in (("low", 0.6), ("high", 0.9))]
    assert [row["name"] for row in by_auroc(rows)] == ["high", "low", "failed"]


def test_what_is_kept(tmp_path: Path) -> None:
    path = result_path(tmp_path, "a", "5 min, cpu", 0)
    assert list(kept(tmp_path)) == []
    result = {"row": "a", "group": "detector", "seed": 0, "budget": "5 min, cpu", "key": "k", "figures": {}}
    keep(path, result)
    keep(result_path(tmp_path, "a", "30 min, cpu", 0), result | {"budget": "30 min, cpu"})
    assert [each["budget"] for each in kept(tmp_path)] == ["30 min, cpu", "5 min, cpu"]
    for text in ('{"key": ', "[1]", '{"figures": {}}'):
        path.write_text(text)
        assert len(list(kept(tmp_path))) == 1, "what is not whole is made anew"
    keep(path, {key: value for key, value in result.items() if key != "figures"} | {"failed": "x"})
    assert len(list(kept(tmp_path))) == 1, "what failed is tried again"


def test_budgets_are_named_where_a_row_has_several() -> None:
    rows = [{"name": name, "budget": budget} for name, budget in (("a", "5 min"), ("a", "30 min"), ("b", "5 min"))]
    assert [row["label"] for row in labelled(rows)] == ["a, 5 min", "a, 30 min", "b"]


@pytest.mark.parametrize(("low", "expected"), [(0.01, True), (-0.01, False)])
def test_above_the_trivial_scores_is_above_each_of_them(low: float, expected: bool) -> None:
    result = _result(0, 0.8)
    result["figures"]["above_trivial"] = {"one": {"ci95": [0.1, 0.2]}, "other": {"ci95": [low, 0.2]}}
    assert joined("a", [result])["above_trivial"] is expected
    assert joined("a", [result | {"group": "trivial score"}])["above_trivial"] is None
    assert joined("a", [_result(0, 0.8)])["above_trivial"] is None
