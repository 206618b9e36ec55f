"""Does the stated false-alarm rate hold, by site and scanner."""

import math

import numpy as np
import pyarrow as pa
import pytest

from uadray.decisions.validity import (
    LEVEL,
    P_EDGES,
    judged_slides,
    most_common,
    probability_of_so_many,
    validity,
)


def _table(p: list[float], *, site: str | None = "North", note: str | None = None, first: int = 0) -> pa.Table:
    n = len(p)
    return pa.table(
        {
            "slide_id": [f"s{first + i:05d}" for i in range(n)], "state": ["scored"] * n,
            "note": pa.array([note] * n, pa.string()), "p_value": pa.array(p, pa.float64()),
            "decided_at": pa.array([None] * n, pa.string()), "site": pa.array([site] * n, pa.string()),
            "scanner": ["S1"] * n,
        }
    )  # fmt: skip


def test_p_values_are_counted_up_to_each_edge() -> None:
    (group,) = validity(_table([0.01, 0.015, 0.05, 0.5, 0.55, 1.0]), alpha=0.05, n_calibration=99)
    assert dict(zip(P_EDGES, group.at_most, strict=True)) == {
        0.01: 1, 0.02: 2, 0.05: 3, 0.1: 3, 0.2: 3, 0.3: 3, 0.4: 3, 0.5: 4, 0.6: 5, 0.7: 5, 0.8: 5, 0.9: 5, 1.0: 6,
    }  # fmt: skip
    assert (group.site, group.scanner, group.n_slides, group.n_called) == ("North", "S1", 6, 3)
    assert group.total == pytest.approx(2.125)


def test_slides_that_say_nothing_new_are_left_out() -> None:
    failed = _table([0.5], first=2).set_column(1, "state", pa.array(["failed"]))
    table = pa.concat_tables([_table([0.1]), _table([0.2], note="training", first=1), failed])
    assert judged_slides(table)["slide_id"].to_pylist() == ["s00000"]


def test_slides_come_in_the_order_of_their_decisions() -> None:
    times = pa.array(["2026-01-02T00:00:00Z", None, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"])
    table = _table([0.1, 0.2, 0.3, 0.4]).set_column(4, "decided_at", times)
    assert judged_slides(table)["slide_id"].to_pylist() == ["s00001", "s00002", "s00003", "s00000"]


def test_one_slide_of_each_patient_is_judged_in_each_group() -> None:
    table = pa.concat_tables([_table([0.1, 0.2, 0.3, 0.4]), _table([0.5], site="South", first=4)])
    table = table.append_column("patient", pa.array(["a", "a", None, None, "a"]))
    assert judged_slides(table)["slide_id"].to_pylist() == ["s00000", "s00002", "s00003", "s00004"]


def test_a_calibration_holds_where_slides_are_as_it_says_and_not_where_they_are_not() -> None:
    uniform = [(i + 0.5) / 40 for i in range(40)]
    low, alone = _table([0.02] * 40, site="South", first=40), _table([0.5], site=None, first=90)
    groups = validity(pa.concat_tables([_table(uniform), low, alone]), alpha=0.05, n_calibration=99)
    assert [(each.site, each.holds(())) for each in groups] == [("North", True), ("South", False), ("unknown", None)]
    assert groups[0].holds({("North", "S1")}) is False, "it drifted"
    assert groups[2].holds({("unknown", "S1")}) is False, "few slides, and they drifted"
    assert validity(_table([]), alpha=0.05, n_calibration=99) == []


@pytest.mark.parametrize(("n_calibration", "alpha", "n_slides"), [(19, 0.05, 100), (99, 0.05, 60), (60, 0.1, 400)])
def test_normal_slides_are_called_too_many_no_more_often_than_stated(
    n_calibration: int, alpha: float, n_slides: int
) -> None:
    """Whole worlds: new calibration slides and new slides each time, all alike, p-values as `conformal` makes them."""
    rng = np.random.default_rng(0)
    n_worlds, called = 4000, 0
    for _ in range(n_worlds):
        normals, slides = np.sort(rng.random(n_calibration)), rng.random(n_slides)
        p = (1 + n_calibration - np.searchsorted(normals, slides)) / (n_calibration + 1)
        n_called = int((p <= alpha).sum())
        called += probability_of_so_many(n_called, n_slides, alpha=alpha, n_calibration=n_calibration) < LEVEL
    assert called / n_worlds <= LEVEL + 3 * math.sqrt(LEVEL / n_worlds)


def test_chance_by_hand() -> None:
    """K = 1 of 19 slides: of one new slide, P(called) = 1/20; of two, both: 2 / (20 * 21)."""
    assert probability_of_so_many(1, 1, alpha=0.05, n_calibration=19) == pytest.approx(1 / 20)
    assert probability_of_so_many(2, 2, alpha=0.05, n_calibration=19) == pytest.approx(2 / (20 * 21))
    assert probability_of_so_many(0, 9, alpha=0.05, n_calibration=19) == 1
    assert probability_of_so_many(1, 9, alpha=0.05, n_calibration=10) == 0, "nothing can be called"


def test_the_rest_is_other() -> None:
    from collections import Counter

    assert most_common(Counter("aaabbcd"), 3) == {"a": 3, "b": 2, "other": 2}
    assert most_common(Counter("ab"), 3) == {"a": 1, "b": 1}
