"""FROC against an independent implementation, on lesions drawn by hand and at random."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_froc import Detection, naive_froc

from uadray.evaluation import froc
from uadray.evaluation.froc import Froc, hits
from uadray.evaluation.lesions import LEVEL_UM, lesion_mask

SIDE = 64
"""Of slides whose level-0 pixel is one of the mask, 7.8 um: 0.5 mm."""

Box = tuple[int, int, int, int]


def _outline(boxes: list[Box]) -> Any:
    return shapely.union_all([shapely.box(*box) for box in boxes])


def _pixels(boxes: list[Box]) -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def _figures(slides: list[tuple[list[Box] | None, list[Detection]]]) -> dict[str, Any] | None:
    total = Froc()
    for boxes, detections in slides:
        mask = None if boxes is None else lesion_mask(
            _outline(boxes), mpp_level0=LEVEL_UM, size_level0_px=(SIDE, SIDE)
        )  # fmt: skip
        x, y, confidence = np.array(detections, np.float64).reshape(-1, 3).T
        total.add(hits(x, y, confidence, mask), isolated=mask.n_isolated if mask else 0)
    return total.figures()


def _naive(slides: list[tuple[list[Box] | None, list[Detection]]]) -> tuple[float, dict[float, float], int]:
    drawn = [(None if boxes is None else _pixels(boxes), detections) for boxes, detections in slides]
    return naive_froc(drawn, um=LEVEL_UM)


LARGE = (5, 5, 45, 12)
"""40 px, 311 um: a lesion."""
SMALL = (50, 50, 55, 55)
"""39 um: isolated tumour cells."""

CASES: dict[str, tuple[list[tuple[list[Box] | None, list[Detection]]], dict[str, float], dict[str, int]]] = {
    "two hits in a lesion count once, with the higher confidence": (
        [([LARGE], [(10, 8, 0.4), (40, 8, 0.9), (60, 60, 0.6)])],
        {"0.25": 1, "8": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "the lower one would have come after the false alarm": (
        [([LARGE], [(10, 8, 0.4), (60, 60, 0.6)])],
        {"0.25": 0, "1": 0, "2": 1, "8": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "isolated cells are neither found nor a false alarm": (
        [([LARGE, SMALL], [(52, 52, 0.9), (10, 8, 0.5)])],
        {"0.25": 1}, {"lesions": 1, "isolated": 1, "ignored": 1},
    ),
    "isolated cells beside a lesion, near enough, are part of it": (
        [([LARGE, (50, 5, 55, 12)], [(52, 8, 0.5)])],
        {"0.25": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "two lesions that touch when they are widened are one": (
        [([(5, 5, 45, 10), (5, 18, 45, 23)], [(10, 7, 0.5)])],
        {"0.25": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "two that do not are two": (
        [([(5, 5, 45, 10), (5, 19, 45, 24)], [(10, 7, 0.5)])],
        {"0.25": 0.5}, {"lesions": 2, "isolated": 0, "ignored": 0},
    ),
    "a ring's hole is in the lesion": (
        [([(5, 5, 55, 8), (5, 52, 55, 55), (5, 5, 8, 55), (52, 5, 55, 55)], [(30, 30, 0.5)])],
        {"0.25": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "37.5 um beyond its edge a lesion ends": (
        [([LARGE], [(48, 8, 0.4), (49, 8, 0.5)])],
        {"0.25": 0, "1": 0, "2": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "false alarms of normal slides count, over all slides": (
        [([LARGE], [(10, 8, 0.5)]), (None, [(1, 1, 0.9)]), (None, [(1, 1, 0.7), (9, 9, 0.1)]), (None, [])],
        {"0.25": 0, "0.5": 0, "1": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "a slide whose lesions are all isolated cells counts as a slide": (
        [([LARGE], [(10, 8, 0.5)]), ([SMALL], [(52, 52, 0.9), (5, 5, 0.8)])],
        {"0.25": 0, "0.5": 0, "1": 1}, {"lesions": 1, "isolated": 1, "ignored": 1},
    ),
    "detections of the same confidence come together": (
        [([LARGE], [(10, 8, 0.5), (60, 60, 0.5)])],
        {"0.25": 1}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
    "nothing is detected": (
        [([LARGE], [])], {"0.25": 0, "8": 0}, {"lesions": 1, "isolated": 0, "ignored": 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cases_by_hand(name: str) -> None:
    slides, expected, counts = CASES[name]
    figures = _figures(slides)
    assert figures is not None
    score, read, n_lesions = _naive(slides)
    assert figures["score"] == pytest.approx(score)
    assert figures["sensitivities"] == pytest.approx({f"{rate:g}": value for rate, value in read.items()})
    assert {rate: figures["sensitivities"][rate] for rate in expected} == expected
    assert {what: figures[what] for what in counts} == counts
    assert n_lesions == counts["lesions"]


boxes = st.lists(
    st.tuples(st.integers(0, 58), st.integers(0, 58), st.integers(1, 55), st.integers(1, 12)).map(
        lambda b: (b[0], b[1], min(b[0] + b[2], SIDE), min(b[1] + b[3], SIDE))
    ),
    min_size=1, max_size=3,
)  # fmt: skip
detections = st.lists(
    st.tuples(
        st.floats(0, SIDE - 1, width=16), st.floats(0, SIDE - 1, width=16), st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])
    ),
    max_size=12,
)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.none() | boxes, detections), min_size=1, max_size=3))
def test_equals_the_naive_one(slides: list[tuple[list[Box] | None, list[Detection]]]) -> None:
    figures = _figures(slides)
    if figures is None:
        with pytest.raises(ZeroDivisionError):
            _naive([*slides, (None, [(0, 0, 0.5)])])
        return
    score, read, n_lesions = _naive(slides)
    assert figures["lesions"] == n_lesions
    assert figures["score"] == pytest.approx(score)
    assert figures["sensitivities"] == pytest.approx({f"{rate:g}": value for rate, value in read.items()})


def _many(n_slides: int, per_slide: int, seed: int = 0) -> Froc:
    rng, total = np.random.default_rng(seed), Froc()
    for _ in range(n_slides):
        found = np.where(rng.random(2) < 0.8, rng.normal(2, 1, 2), -np.inf)
        total.add(froc.Hits(rng.normal(0, 1, per_slide), found, 0))
    return total


def test_false_alarms_that_no_rate_reaches_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of the figures changes."""
    whole = _many(40, 200).figures()
    monkeypatch.setattr(froc, "MOST_FALSE", 2000)
    bounded = _many(40, 200)
    assert sum(len(values) for values, _ in bounded._false) <= 4000
    figures = bounded.figures()
    assert whole is not None
    assert figures is not None
    for key in ("score", "score_interpolated", "sensitivities", "lesions", "curve"):
        assert figures[key] == whole[key]


def test_the_interval_does_without_detections_that_no_draw_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _many(40, 200).figures()
    monkeypatch.setattr(froc, "MOST_DRAWN", 0)
    cut = _many(40, 200).figures()
    assert whole is not None
    assert cut is not None
    assert cut["score_ci95"] == whole["score_ci95"]


def test_the_curve_is_whole_to_eight_false_alarms() -> None:
    """What is left out lies on straight lines; the score read off it is the same."""
    figures = _many(40, 200).figures()
    assert figures is not None
    rate, sensitivity = np.array(figures["curve"]).T
    assert (np.diff(rate) >= 0).all()
    assert (np.diff(sensitivity) >= 0).all()
    assert rate[0] == sensitivity[0] == 0
    assert rate[-1] == 8
    assert len(rate) <= froc.CURVE_POINTS
    assert np.interp(froc.FALSE_ALARMS, rate, sensitivity).mean() == pytest.approx(figures["score_interpolated"])


def test_the_interval_is_over_patients() -> None:
    """It is wider where slides are of few patients, and there is none where one patient has all lesions."""
    few, many, rng = Froc(), Froc(), np.random.default_rng(1)
    for i in range(40):
        of_patient = np.random.default_rng(i // 8).random() < 0.5
        slide = froc.Hits(rng.normal(0, 1, 3), np.array([3.0 if of_patient else -np.inf]), 0)
        few.add(slide, group=str(i // 8))
        many.add(slide)
    widths = []
    for total in (few, many):
        figures = total.figures()
        assert figures is not None
        low, high = figures["score_ci95"]
        assert low <= figures["score"] <= high
        widths.append(high - low)
    assert widths[0] > 1.3 * widths[1]
    one = Froc()
    one.add(froc.Hits(np.array([1.0]), np.array([2.0]), 0), group="a")
    one.add(froc.Hits(np.array([1.0]), np.empty(0), 0), group="b")
    figures = one.figures()
    assert figures is not None
    assert figures["score_ci95"] is None
