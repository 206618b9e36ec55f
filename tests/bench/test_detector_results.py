"""Results of `bench detectors`: means of seeds, goals, and what is kept from run to run."""

from pathlib import Path
from typing import Any

import pytest

from uadray.bench.detector_results import GOALS, RECOMMENDED, by_auroc, csv_of, goals_met, joined, keep, kept


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
    assert csv_of([row]).splitlines()[1].startswith("a,detector,2,0.84")
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
    path = tmp_path / "rows" / "a-seed0.json"
    assert kept(path, "k") is None
    keep(path, {"key": "k", "figures": {}})
    assert kept(path, "k") == {"key": "k", "figures": {}}
    assert kept(path, "another configuration") is None
    keep(path, {"key": "k", "failed": "x"})
    assert kept(path, "k") is None, "it is tried again"
    path.write_text("[1]")
    assert kept(path, "k") is None
