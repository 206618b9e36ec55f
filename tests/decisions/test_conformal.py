"""Conformal p-values, thresholds and alphas: by hand, as properties, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration, check_alpha, one_a_patient, p_value, threshold
from uadray.errors import InputError


def _calibration(scores: list[float], alpha: float) -> Calibration:
    return Calibration(
        id="c", bundle_id="b", aggregation=AggregationConfig(), alpha=alpha, scores=tuple(sorted(scores)),
        tile_median=0.1, tile_p99=0.2, tile_high=0.3,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.5, 1.0),  # all four are as high: 5 / 5
        (1.0, 1.0),
        (1.5, 0.8),
        (2.0, 0.8),  # both twos count as high: 1 + 3 of 5
        (2.5, 0.4),
        (3.0, 0.4),
        (3.1, 0.2),
        (math.inf, 0.2),
    ],
)
def test_p_values_by_hand(score: float, expected: float) -> None:
    assert p_value(score, (1.0, 2.0, 2.0, 3.0)) == expected


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.25, 4.0), (0.2, 4.0), (0.39, 4.0), (0.4, 3.0), (0.6, 2.0), (0.8, 1.0), (0.99, 1.0), (0.9999999999999999, 1.0)],
)
def test_thresholds_by_hand(alpha: float, expected: float) -> None:
    """Four slides: p takes the values 1/5 to 5/5."""
    assert threshold(_calibration([3.0, 1.0, 4.0, 2.0], alpha)) == expected


few = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=30)
many = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    scores=few | many,
    score=st.integers(0, 5).map(float) | st.floats(-1e6, 1e6),
    k=st.integers(1, 60),
    wide=st.floats(0.001, 0.999),
)
@example(scores=[0.0] * 29, score=1.0, k=1, wide=0.03333333333333)  # just below 1 / 30
def test_above_the_threshold_is_p_below_alpha(scores: list[float], score: float, k: int, wide: float) -> None:
    """For any alpha that the slides can state, ties and steps of p included, and their floating-point neighbours."""
    n = len(scores)
    step = min(k, n) / (n + 1)
    for alpha in (step, math.nextafter(step, 0), math.nextafter(step, 1), wide):
        if not 0 < alpha < 1 or 1 / (n + 1) > alpha:
            continue
        calibration = _calibration(scores, alpha)
        for s in (score, *scores, max(scores) + 1):
            assert (s > threshold(calibration)) == (p_value(s, calibration.scores) <= alpha)


@pytest.mark.parametrize(
    ("alpha", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.2, 4), (0.3, 3), (1 / 3, 2), (0.5, 1), (0.001, 999)]
)
def test_check_alpha_names_the_number_of_slides(alpha: float, needed: int) -> None:
    check_alpha(alpha, needed)
    with pytest.raises(InputError) as caught:
        check_alpha(alpha, needed - 1)
    assert f"needs at least {needed} normal slides that can be scored; there are {needed - 1}" in str(caught.value)
    assert f"smallest p-value is {1 / needed:.3g}" in str(caught.value)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_alphas_that_are_no_rate(alpha: float) -> None:
    with pytest.raises(InputError, match="lies between 0 and 1"):
        check_alpha(alpha, 1000)


@settings(max_examples=200, deadline=None)
@given(alpha=st.floats(1e-6, 1, exclude_max=True), n=st.integers(1, 500))
def test_what_check_alpha_lets_pass_has_a_threshold(alpha: float, n: int) -> None:
    try:
        check_alpha(alpha, n)
    except InputError:
        assert 1 / (n + 1) > alpha, "refused although the smallest p-value would do"
        return
    calibration = _calibration([float(i) for i in range(n)], alpha)
    assert p_value(n + 1.0, calibration.scores) <= alpha
    assert n + 1.0 > threshold(calibration)


@pytest.mark.parametrize("distribution", ["normal", "heavy", "ties"])
def test_normal_slides_raise_few_false_alarms(distribution: str) -> None:
    """P(p <= alpha) <= alpha for a normal slide, whatever the distribution: 6,000 calibrations of 39 slides each.

    Four standard errors of slack: the test fails by chance once in some ten thousand changes of the code.
    """
    rng, n, trials = np.random.default_rng(0), 39, 6000
    draw = {
        "normal": lambda: rng.normal(size=n + 1),
        "heavy": lambda: rng.standard_cauchy(size=n + 1),
        "ties": lambda: rng.integers(0, 8, size=n + 1).astype(float),
    }[distribution]
    samples = [draw() for _ in range(trials)]
    p = np.array([p_value(float(s[-1]), sorted(s[:-1].tolist())) for s in samples])
    for alpha in (0.025, 0.05, 0.1, 0.3):
        rate, slack = (p <= alpha).mean(), 4 * math.sqrt(alpha * (1 - alpha) / trials)
        assert rate <= alpha + slack
        if distribution != "ties":
            assert rate >= alpha - slack, "without ties it is exact at multiples of 1 / 40"


def test_slides_of_one_patient_count_as_one() -> None:
    """Ten patients of ten slides that are alike: taken for a hundred they seem to support alpha .05, and do not.

    One a patient they support .1. 4,000 slides of new patients; four standard errors of slack.
    """
    rng, trials = np.random.default_rng(0), 4000
    patients = {f"s{i}": ("patient", f"p{i % 10}") for i in range(100)}
    chosen = one_a_patient(patients)
    assert sorted(patients[slide_id][1] for slide_id in chosen) == [f"p{i}" for i in range(10)]
    assert one_a_patient(dict(reversed(patients.items()))) == chosen
    alarms = {"all": 0, "one": 0}
    for _ in range(trials):
        of_patient = rng.normal(size=11)
        scores = {f"s{i}": of_patient[i % 10] + 0.1 * rng.normal() for i in range(100)}
        new = of_patient[10] + 0.1 * rng.normal()
        alarms["all"] += p_value(new, sorted(scores.values())) <= 0.05
        alarms["one"] += p_value(new, sorted(scores[slide_id] for slide_id in chosen)) <= 0.1
    assert alarms["all"] / trials > 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert alarms["one"] / trials <= 0.1 + 4 * math.sqrt(0.1 * 0.9 / trials)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(odd: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        _calibration([1.0, odd], 0.4)


@pytest.mark.parametrize("method", ["grow", "smooth", "top"])
def test_only_grow_needs_a_ceiling(method: str) -> None:
    """Without one its scores would be others than those of the calibration's slides."""
    values = _calibration([1.0, 2.0], 0.5).model_dump() | {"aggregation": {"method": method}}
    if method == "grow":
        with pytest.raises(ValidationError, match="tile_ceiling"):
            Calibration.model_validate(values)
        values |= {"tile_ceiling": 2.0}
    assert Calibration.model_validate(values).reference.bound == (2.0 if method == "grow" else math.inf)


@pytest.mark.parametrize("quantiles", [(), (0.1, 0.1), (0.1, 0.2, 0.2, 0.9)])
def test_quantiles_ascend(quantiles: tuple[float, ...]) -> None:
    values = _calibration([1.0, 2.0], 0.5).model_dump()
    assert Calibration.model_validate(values | {"tile_quantiles": quantiles}).tile_quantiles == quantiles


@pytest.mark.parametrize("quantiles", [(0.1,), (0.2, 0.1), (0.1, math.nan), tuple(range(1002))])
def test_quantiles_that_are_none_are_refused(quantiles: tuple[float, ...]) -> None:
    values = _calibration([1.0, 2.0], 0.5).model_dump()
    with pytest.raises(ValidationError, match="tile_quantiles"):
        Calibration.model_validate(values | {"tile_quantiles": quantiles})
