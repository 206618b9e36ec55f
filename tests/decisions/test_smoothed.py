"""Smoothed p-values: by hand, beside the plain ones, exact by simulation, and what they decide."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.decisions.p_values import p_value, p_values, smoothed_p_value, threshold_of, uniform_of
from uadray.decisions.verdict import decided

few = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=30).map(sorted)
uniform = st.floats(2**-53, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("score", "u", "expected"),
    [
        (2.0, 0.5, 0.5),  # one above, two equal and itself, halved: 2.5 of 5
        (9.0, 0.1, 0.02),
        (0.0, 0.5, 0.9),
    ],
)
def test_by_hand(score: float, u: float, expected: float) -> None:
    assert smoothed_p_value(score, (1.0, 2.0, 2.0, 3.0), u) == pytest.approx(expected)


@settings(max_examples=200, deadline=None)
@given(scores=few, score=st.integers(0, 5).map(float), u=uniform)
def test_never_above_the_plain_one(scores: list[float], score: float, u: float) -> None:
    assert 0 < smoothed_p_value(score, scores, u) <= p_value(score, scores)


@settings(max_examples=100, deadline=None)
@given(scores=few, given_=st.lists(st.integers(0, 5).map(float) | st.just(math.nan), max_size=9))
def test_many_at_once_are_as_one_by_one(scores: list[float], given_: list[float]) -> None:
    one_by_one = [math.nan if math.isnan(score) else p_value(score, scores) for score in given_]
    np.testing.assert_array_equal(p_values(np.array(given_), scores), one_by_one)


@settings(max_examples=200, deadline=None)
@given(scores=few, score=st.integers(-1, 6).map(float), u=uniform, alpha=st.floats(0.05, 0.95))
def test_above_its_threshold_a_slide_is_called_and_below_it_is_not(
    scores: list[float], score: float, u: float, alpha: float
) -> None:
    limit, n = threshold_of(scores, alpha, u), len(scores)
    called = smoothed_p_value(score, scores, u) <= alpha
    if score > limit and not math.isinf(limit):
        assert called
    if score < limit and (n + u) / (n + 1) > alpha:  # else it is called whatever it scores
        assert not called


def test_u_is_of_the_slide_and_of_the_calibration_and_uniform() -> None:
    assert uniform_of("a", "c") == uniform_of("a", "c")
    assert len({uniform_of("a", "c"), uniform_of("b", "c"), uniform_of("a", "d")}) == 3
    u = np.array([uniform_of(f"slide{i}", "c") for i in range(4000)])
    assert 0 < u.min() < u.max() < 1
    deciles = np.histogram(u, 10, (0, 1))[0]
    assert ((deciles - 400) ** 2 / 400).sum() < 30, "chi-square with 9 degrees of freedom: by chance once in 2,000"


@pytest.mark.parametrize("draw", ["normal", "ties"])
def test_exact_at_any_alpha(draw: str) -> None:
    """20,000 slides against 13 normal ones each: P(p <= alpha) = alpha, ties or not; four standard errors."""
    rng, trials = np.random.default_rng(0), 20_000
    scores = rng.normal(size=(trials, 14)) if draw == "normal" else rng.integers(0, 4, (trials, 14)).astype(float)
    above = (scores[:, 1:] > scores[:, :1]).sum(1)
    equal = (scores[:, 1:] == scores[:, :1]).sum(1)
    p = (above + rng.random(trials) * (1 + equal)) / 14
    assert p[0] <= p_value(float(scores[0, 0]), scores[0, 1:].tolist())
    for alpha in (0.03, 0.05, 0.123, 0.5):
        assert (p <= alpha).mean() == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / trials))


def _calibration(alpha: float = 0.05, n: int = 30, **values: object) -> Calibration:
    return Calibration.model_validate({
        "id": "c", "bundle_id": "b", "aggregation": AggregationConfig(), "alpha": alpha,
        "scores": tuple(map(float, range(n))), "tile_median": 0.1, "tile_p99": 0.2, "tile_high": 0.3, **values,
    })  # fmt: skip


def test_decisions_are_those_of_the_smoothed_p_value() -> None:
    """Of thirty slides the second highest is called at alpha 0.05 by some slides' draws, and never without."""
    smoothed, plain = _calibration(smoothed=True), _calibration()
    verdicts = [decided(28.5, smoothed, slide_id=f"s{i}") for i in range(300)]
    called = [verdict["decision"] == "anomalous" for verdict in verdicts]
    assert called == [verdict["p_smoothed"] <= 0.05 for verdict in verdicts]
    assert called == [verdict["threshold"] < 28.5 for verdict in verdicts]
    assert np.mean(called) == pytest.approx(0.55, abs=4 * math.sqrt(0.25 / 300))  # 0.05 * 31 - 1
    assert {verdict["p_value"] for verdict in verdicts} == {2 / 31}
    without = decided(28.5, plain, slide_id="s0")
    assert (without["decision"], without["p_smoothed"], without["threshold"]) == ("normal", None, 29.0)
    assert decided(29.5, plain)["decision"] == decided(29.5, smoothed, slide_id="s0")["decision"] == "anomalous"


def test_a_slide_without_an_id_has_no_draw() -> None:
    with pytest.raises(ValueError, match="whose id is known"):
        decided(1.0, _calibration(smoothed=True))
