"""P-values of tiles: by hand, as properties, of old calibrations, and of what claims to be a tail."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration, tile_p_values
from uadray.decisions.tile_tail import MAX_KNOTS, TileTail, tile_tail_of
from uadray.errors import InputError

slides = st.lists(st.lists(st.integers(0, 6).map(float) | st.floats(-9, 9), min_size=1, max_size=20), min_size=1,
                  max_size=5)  # fmt: skip


def _calibration(**values: Any) -> Calibration:
    return Calibration.model_validate({
        "id": "c", "bundle_id": "b", "aggregation": AggregationConfig(), "alpha": 0.5, "scores": (1.0,),
        "tile_median": 0.1, "tile_p99": 0.2, "tile_high": 0.3, **values,
    })  # fmt: skip


def test_by_hand() -> None:
    """A slide of two tiles weighs as much as one of four: the 2 is an eighth and a half of all that score 2 or more."""
    tail = tile_tail_of([np.array([1.0, 2.0]), np.array([1.0, 1.0, 1.0, 3.0])])
    assert tail.n_effective == pytest.approx(4 / (1 / 2 + 1 / 4))  # 16 / 3
    got = tile_p_values(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 3.1, math.nan]), _calibration(tile_tail=tail))
    share = np.array([1, 1, 1, 3 / 8, 1 / 8, 0, math.nan])
    np.testing.assert_allclose(got, (1 + 16 / 3 * share) / (1 + 16 / 3))


@settings(max_examples=100, deadline=None)
@given(slides=slides, scores=st.lists(st.integers(-1, 7).map(float) | st.floats(-10, 10), min_size=1, max_size=20))
def test_never_below_the_count_of_all_tiles(slides: list[list[float]], scores: list[float]) -> None:
    tail = tile_tail_of([np.array(slide) for slide in slides])
    exact = np.array([np.mean([np.mean(np.array(slide) >= score) for slide in slides]) for score in scores])
    p = tail.p_values(np.array(scores))
    assert (p >= (1 + tail.n_effective * exact) / (tail.n_effective + 1) - 1e-9).all()
    assert ((p >= 1 / (tail.n_effective + 1)) & (p <= 1 + 1e-9)).all()
    assert tail == TileTail.model_validate_json(tail.model_dump_json())


def test_many_tiles_take_little_and_lose_little() -> None:
    """Sixty slides of up to 5,000 tiles: p-values within 6 % of counting, down to one tile in a thousand."""
    rng = np.random.default_rng(0)
    given_ = [rng.normal(size=int(m)) for m in rng.integers(50, 5000, 60)]
    tail = tile_tail_of(given_)
    assert len(tail.scores) < 400
    assert (tail.scores[0], tail.scores[-1]) == (min(map(min, given_)), max(map(max, given_)))
    at = np.linspace(-3, 4, 200)
    exact = np.mean([(slide[:, None] >= at).mean(0) for slide in given_], axis=0)
    exact = (1 + tail.n_effective * exact) / (tail.n_effective + 1)
    ratio = (tail.p_values(at) / exact)[exact > 1e-3]
    assert 1 - 1e-9 <= ratio.min() <= ratio.max() <= 1.06
    assert tail.p_values(np.array([99.0]))[0] == pytest.approx(1 / (tail.n_effective + 1))


def test_normal_tiles_have_uniform_p_values() -> None:
    rng = np.random.default_rng(1)
    calibration = _calibration(tile_tail=tile_tail_of([rng.normal(size=1000) for _ in range(30)]))
    p = tile_p_values(rng.normal(size=(200, 100)), calibration)
    assert p.shape == (200, 100)
    for share in (0.001, 0.01, 0.1, 0.5):
        slack = 4 * math.sqrt(share * (1 - share) * (1 / p.size + 1 / 30_000))
        assert share * 0.94 - slack <= (p <= share).mean() <= share + slack


def test_calibrations_of_older_versions_have_whole_per_cent() -> None:
    older = _calibration(tile_quantiles=tuple(np.linspace(0, 1, 101).tolist()))
    got = tile_p_values(np.array([0.0, 0.505, 0.995, 2.0, math.nan]), older)
    np.testing.assert_allclose(got, [1, (1 + 50) / 101, (1 + 1) / 101, 1 / 101, math.nan])
    ties = _calibration(tile_quantiles=(0.0, 0.0, 1.0, 1.0, 1.0))
    np.testing.assert_allclose(tile_p_values(np.array([0.0, 0.5, 1.0]), ties), [1, 1, (1 + 2) / 5])
    with pytest.raises(InputError, match="calibrate again"):
        tile_p_values(np.array([0.0]), _calibration())


@pytest.mark.parametrize(
    "odd",
    [
        {"scores": (1.0, 1.0)},
        {"scores": (2.0, 1.0)},
        {"scores": (1.0, math.nan)},
        {"scores": (1.0,)},
        {"scores": (), "above": ()},
        {"above": (0.5, 1.0)},
        {"above": (1.0, 0.0)},
        {"above": (1.5, 0.5)},
        {"n_effective": 0.0},
        {"n_effective": math.inf},
        {
            "scores": tuple(map(float, range(MAX_KNOTS + 1))),
            "above": tuple(np.linspace(1, 0.1, MAX_KNOTS + 1).tolist()),
        },
    ],
)
def test_what_is_no_tail_is_refused(odd: dict[str, Any]) -> None:
    values = {"n_effective": 2.0, "scores": (1.0, 2.0), "above": (1.0, 0.5)}
    TileTail.model_validate(values)
    with pytest.raises(ValidationError):
        TileTail.model_validate(values | odd)
