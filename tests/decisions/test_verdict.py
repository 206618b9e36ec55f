"""Each end that a slide can come to, and what is said of it."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.decisions.verdict import judge
from uadray.schemas import SLIDE_DECISIONS, TILE_SCORES

CONFIG = AggregationConfig(top_fraction=0.5, min_tiles=4, min_coverage=0.75)
CALIBRATION = Calibration(
    id="cal", bundle_id="b", aggregation=CONFIG, alpha=0.25, scores=(1.0, 2.0, 3.0),
    tile_median=0.1, tile_p99=0.2, tile_high=0.3,
)  # fmt: skip


def _tiles(scores: list[float | None], flags: list[str | None] | None = None) -> pa.Table:
    n = len(scores)
    errors = [None if s is not None else "pixels cannot be read" for s in scores]
    columns = {
        "tile_id": [f"s1/{i}" for i in range(n)], "slide_id": ["s1"] * n, "x_level0_px": [64 * i for i in range(n)],
        "y_level0_px": [0] * n, "width_level0_px": [64] * n, "height_level0_px": [64] * n,
        "tissue_fraction": [1.0] * n, "band": ["tissue"] * n, "score": scores, "mean_saturation": [0.1] * n,
        "mean_green": [0.1] * n, "flag": flags or [None] * n, "error": errors,
    }  # fmt: skip
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in TILE_SCORES}, schema=TILE_SCORES)


@pytest.mark.parametrize(
    ("scores", "decision", "p"),
    [
        ([1.0, 1.0, 3.5, 3.0], "anomalous", 0.25),  # mean of the upper half: 3.25, above all three
        ([1.0, 1.0, 3.0, 3.0], "normal", 0.5),  # 3.0 ties with the highest
        ([0.0, 0.0, 0.0, 0.0], "normal", 1.0),
        ([None, 1.0, 9.0, 9.0, 9.0], "anomalous", 0.25),  # four of five read: 80 %
    ],
)
def test_scored(scores: list[float | None], decision: str, p: float) -> None:
    verdict = judge(_tiles(scores), None, CONFIG, CALIBRATION)
    assert (verdict["state"], verdict["decision"], verdict["p_value"]) == ("scored", decision, p)
    assert (verdict["threshold"], verdict["alpha"], verdict["calibration_id"]) == (3.0, 0.25, "cal")
    assert (verdict["score"] > verdict["threshold"]) == (decision == "anomalous")
    assert verdict["n_tiles"] == len(scores)
    assert verdict["n_scored"] == len([s for s in scores if s is not None])
    assert verdict["coverage"] == verdict["n_scored"] / verdict["n_tiles"]
    assert set(verdict) <= set(SLIDE_DECISIONS.names)


def test_without_a_calibration_there_is_neither_score_nor_decision() -> None:
    verdict = judge(_tiles([1.0, 2.0, 3.0, 4.0]), None, CONFIG)
    assert verdict["state"] == "scored"
    assert not {"score", "decision", "p_value", "threshold"} & set(verdict)


def test_scored_with_neighbours_and_a_ceiling() -> None:
    """Six tiles in a row, and 9 counts as 5: the best three are 1, 2, 5 or 2, 5, 1, the best four 1, 2, 5, 1."""
    config = AggregationConfig(method="grow", top_fraction=1 / 6, min_tiles=4)
    values = {"aggregation": config, "tile_ceiling": 5.0}
    calibration = Calibration.model_validate(CALIBRATION.model_dump() | values)
    verdict = judge(_tiles([1.0, 2.0, 9.0, 1.0, 0.0, 1.0]), None, config, calibration)
    assert verdict["score"] == pytest.approx(((8 + 6 * 10 / 6) / 9 + 9 / 4) / 2)


def test_an_unreadable_tile_lowers_coverage_never_the_score() -> None:
    rows: list[list[float | None]] = [[5.0] * 4, [5.0, 5.0, 5.0, 5.0, None]]
    whole, holed = (judge(_tiles(row), None, CONFIG, CALIBRATION)["score"] for row in rows)
    assert whole == holed == 5.0


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_little_tissue(n: int) -> None:
    verdict = judge(_tiles([9.0] * n), None, CONFIG, CALIBRATION)
    assert (verdict["state"], verdict["reason"]) == ("not_assessable", "too_little_tissue")
    assert verdict["decision"] == "not_assessable"
    assert verdict["message"] == f"{n} tiles with enough tissue, at least 4 are needed"
    assert verdict["coverage"] == (1.0 if n else None)
    assert "score" not in verdict


@pytest.mark.parametrize(
    "scores",
    [
        [9.0] * 7 + [None] * 3,  # 70 %
        [9.0] * 3 + [None],  # 75 % are enough, three tiles are not
    ],
)
def test_low_coverage(scores: list[float | None]) -> None:
    verdict = judge(_tiles(scores), None, CONFIG, CALIBRATION)
    assert (verdict["state"], verdict["reason"]) == ("not_assessable", "low_coverage")
    assert verdict["decision"] == "not_assessable"
    needed = max(4, math.ceil(0.75 * len(scores)))
    assert f"of {len(scores)} tissue tiles could be read, {needed} are needed" in verdict["message"]
    assert "score" not in verdict


def test_coverage_just_enough() -> None:
    assert judge(_tiles([1.0] * 6 + [None] * 2), None, CONFIG, CALIBRATION)["state"] == "scored"


def test_no_tile_can_be_read() -> None:
    verdict = judge(_tiles([None] * 5), None, CONFIG, CALIBRATION)
    assert (verdict["state"], verdict["reason"]) == ("failed", "unreadable")
    assert verdict["message"] == "no tile can be read: pixels cannot be read"
    assert (verdict["n_tiles"], verdict["n_scored"], verdict["coverage"]) == (5, 0, 0.0)
    assert "decision" not in verdict


@pytest.mark.parametrize("reason", ["missing", "no_mpp", "unreadable", "scoring"])
def test_failed(reason: str) -> None:
    verdict = judge(None, (reason, "what happened"), CONFIG, CALIBRATION)
    assert verdict == {"state": "failed", "reason": reason, "message": "what happened"}


def test_a_failure_beats_tiles_that_came() -> None:
    assert judge(_tiles([9.0] * 8), ("changed", "the object has changed"), CONFIG, CALIBRATION)["state"] == "failed"


def test_a_slide_without_an_answer_is_lost_not_normal() -> None:
    assert judge(None, None, CONFIG, CALIBRATION)["reason"] == "lost"


def test_every_end_is_one_of_three() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(0, 12))
        scores = [None if rng.random() < 0.3 else float(rng.normal()) for _ in range(n)]
        verdict = judge(_tiles(scores), None, CONFIG, CALIBRATION)
        assert verdict["state"] in {"scored", "not_assessable", "failed"}
        assert ("score" in verdict) == (verdict["state"] == "scored")
        assert ("reason" in verdict) == (verdict["state"] != "scored")


def test_a_slide_without_two_stains_is_not_assessable() -> None:
    verdict = judge(None, ("no_stain", "one colour"), CONFIG, CALIBRATION)
    assert (verdict["state"], verdict["decision"]) == ("not_assessable", "not_assessable")
    assert verdict["reason"] == "no_stain"


def test_flagged_tiles_are_no_loss_of_coverage() -> None:
    verdict = judge(_tiles([1.0, 1.0, 3.0, 3.0, None, None], [None] * 4 + ["pen", "fold"]), None, CONFIG, CALIBRATION)
    assert (verdict["state"], verdict["coverage"], verdict["n_tiles"]) == ("scored", 1.0, 6)
    assert json.loads(verdict["flags"]) == {"pen": 1, "fold": 1}
    assert verdict["score"] == 3.0


@pytest.mark.parametrize(
    ("n_good", "flags", "reason"),
    [
        (4, ["pen"] * 16, "pen"),  # 20 % is left, 25 % is needed
        (3, ["fold"] * 2, "folds"),  # three tiles are fewer than any slide needs
        (0, ["blur"] * 5 + ["out_of_focus"] * 4, "out_of_focus"),
        (2, ["pen"] * 5 + ["air"] * 5, "poor_quality"),
    ],
)
def test_too_little_good_tissue(n_good: int, flags: list[str | None], reason: str) -> None:
    scores: list[float | None] = [1.0] * n_good + [None] * len(flags)
    verdict = judge(_tiles(scores, [None] * n_good + flags), None, CONFIG, CALIBRATION)
    assert (verdict["state"], verdict["reason"]) == ("not_assessable", reason)
    assert verdict["decision"] == "not_assessable"
    assert "score" not in verdict
