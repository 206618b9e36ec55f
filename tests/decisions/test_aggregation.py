"""Slide scores by hand."""

import numpy as np
import pytest

from uadray.decisions.aggregation import AggregationConfig, slide_score


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.01, 10.0),  # one tile at least
        (0.1, 10.0),
        (0.11, 9.5),  # rounded up to two
        (0.3, 9.0),
        (1.0, 5.5),
    ],
)
def test_slide_score_by_hand(fraction: float, expected: float) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 11.0))
    assert slide_score(scores, AggregationConfig(top_fraction=fraction)) == expected


def test_slide_score_of_one_tile() -> None:
    assert slide_score(np.array([3.5]), AggregationConfig()) == 3.5
