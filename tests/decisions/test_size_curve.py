"""Whether scores of normal slides depend on their size: 50 to 5,000 squares, likeness of neighbours, unlike slides."""

import numpy as np
import pytest
from normal_slides import normal_slide, sizes, with_lesion
from pydantic import ValidationError
from scipy import stats

from uadray.decisions.aggregation import METHODS, Method, new_aggregation, reference_of, score_of
from uadray.decisions.neighbourhoods import Squares
from uadray.decisions.p_values import p_values
from uadray.decisions.size_curve import MIN_SLIDES, SizeCurve, size_curve, window

ALPHA = 0.1

RNG = np.random.default_rng(3)
CALIBRATION = [normal_slide(n, RNG) for n in sizes(120, RNG)]
SIZES = np.array(sorted(sizes(420, RNG)))
NORMALS = [normal_slide(n, RNG) for n in SIZES.tolist()]

DRIFTS = {"maximum", "region", "fraction"}
"""Methods whose scores go with the size most: the highest of more, larger regions of more, and rougher shares."""

SKEWED = {"region", "fraction", "higher_criticism"}
"""The mean, the deviation and the rate of calls are brought to one size; the shape of their distribution is not."""


def _rates(method: Method, *, by_size: bool) -> tuple[list[float], float]:
    """The share of normal slides that is called, by third of size; and how far the ends' distributions are apart."""
    few = method == "grow"  # it takes ten times as long as the others
    calibration, normals = CALIBRATION[: 60 if few else None], NORMALS[:: 2 if few else 1]
    config = new_aggregation(method).model_copy(update={"by_size": by_size})
    reference = reference_of(calibration, config)
    known, scores = (
        np.array([score_of(each, config, reference=reference) for each in slides]) for slides in (calibration, normals)
    )
    small, _, large = thirds = np.split(scores, 3)
    rates = [float((p_values(third, known) <= ALPHA).mean()) for third in thirds]
    return rates, float(stats.ks_2samp(small, large).statistic)


@pytest.mark.parametrize("method", METHODS)
def test_normal_slides_of_all_sizes_are_called_alike(method: Method) -> None:
    """A third has 140 slides (`grow`: 70), so that its rate is off by 0.03 (0.04) by chance."""
    rates, distance = _rates(method, by_size=True)
    assert max(rates) - min(rates) < 0.12
    assert all(0.02 <= rate <= 0.2 for rate in rates)
    assert distance < (0.35 if method in SKEWED else 0.25)


@pytest.mark.parametrize("method", sorted(DRIFTS))
def test_without_the_curve_they_are_not(method: Method) -> None:
    rates, distance = _rates(method, by_size=False)
    assert max(rates) > 5 * min(rates)
    assert distance > 0.3


@pytest.mark.parametrize("method", ["smooth", "maximum", "region"])
def test_slides_of_one_size_keep_their_order(method: Method) -> None:
    """Then the score is stretched and moved alike for all, and no p-value changes."""
    slides = [normal_slide(200, RNG) for _ in range(20)]
    slides += [with_lesion(normal_slide(200, RNG), 20, RNG) for _ in range(10)]
    orders = []
    for by_size in (False, True):
        config = new_aggregation(method).model_copy(update={"by_size": by_size})
        reference = reference_of(slides[:20], config)
        orders.append(np.argsort([score_of(each, config, reference=reference) for each in slides]).tolist())
        assert (reference.size_curve is not None) == by_size
    assert orders[0] == orders[1]


def test_the_curve_of_a_mean_is_known() -> None:
    """The mean of n independent squares of deviation 2: it stays 5, and its deviation is 2 / root n."""
    rng = np.random.default_rng(0)
    y, x = np.divmod(np.arange(1024), 32)
    slides = [Squares(y, x, rng.normal(5, 2, 1024), 93.0) for _ in range(60)]
    curve = size_curve(slides, lambda each: float(each.score.mean()))
    assert curve is not None
    for n in (8, 64, 1024):
        mean, deviation = curve.at(n)
        assert mean == pytest.approx(5, abs=0.1)
        assert deviation == pytest.approx(2 / n**0.5, rel=0.2)
    assert curve.typical == 1024
    assert curve.adjusted(5 + 4 / 8, 64) == pytest.approx(5 + 4 / 32, abs=0.1)
    assert curve.at(10**6) == curve.at(1024)  # beyond its ends it stays


def test_too_few_slides_or_squares_have_no_curve() -> None:
    slides = [normal_slide(100, RNG) for _ in range(MIN_SLIDES)]
    mean = lambda each: float(each.score.mean())  # noqa: E731
    assert size_curve(slides, mean) is not None
    assert size_curve(slides[1:], mean) is None
    assert size_curve([normal_slide(15, RNG) for _ in range(30)], mean) is None
    assert size_curve(slides, lambda _: 1.0) is None


def test_windows_are_the_nearest_squares() -> None:
    squares = normal_slide(300, RNG)
    part = window(squares, 40, 17)
    assert len(part.score) == 40
    assert part.row.min() == part.column.min() == 0
    assert squares.score[17] in part.score
    assert max(np.ptp(part.row), np.ptp(part.column)) <= 13


@pytest.mark.parametrize(
    "wrong", [{"deviation": (1.0, 0.0)}, {"mean": (1.0,)}, {"n_squares": (8.0, 8.0)}, {"typical": 0.0}]
)
def test_a_curve_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    right = {"n_squares": (8.0, 16.0), "mean": (1.0, 2.0), "deviation": (1.0, 0.5), "typical": 10.0}
    SizeCurve.model_validate(right)
    with pytest.raises(ValidationError):
        SizeCurve.model_validate(right | wrong)
