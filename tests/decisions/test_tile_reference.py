"""What is known of normal squares: shares and thresholds are each other's inverse, and slides count the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.decisions.tile_reference import NO_REFERENCE, TileReference
from uadray.decisions.tile_tail import tile_tail_of

SCORES = np.random.default_rng(0).normal(size=4000)
REFERENCE = TileReference(tail=tile_tail_of([SCORES]))


@given(share=st.floats(0.001, 0.5))
@settings(max_examples=50, deadline=None)
def test_thresholds_have_their_share(share: float) -> None:
    limit = REFERENCE.score_at(share)
    assert (limit <= SCORES).mean() == pytest.approx(share, rel=0.06, abs=1 / 4000)
    assert REFERENCE.shares_above(np.array([limit])) == pytest.approx(share, rel=1e-6)


def test_a_higher_score_is_rarer_up_to_the_highest() -> None:
    shares = REFERENCE.shares_above(np.linspace(SCORES.min(), SCORES.max(), 500))
    assert (np.diff(shares) < 0).all()
    assert shares[0] == pytest.approx(1)
    assert REFERENCE.shares_above(np.array([SCORES.max() + 1])) == pytest.approx(1 / 4000)


def test_slides_count_the_same() -> None:
    """A thousand tiles of 0 and ten of 1 are half and half."""
    reference = TileReference(tail=tile_tail_of([np.zeros(1000), np.ones(10)]))
    assert reference.shares_above(np.array([1.0])) == pytest.approx(0.5)


def test_without_a_tail_there_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="needs the tail"):
        NO_REFERENCE.shares_above(np.zeros(1))
    with pytest.raises(ValueError, match="needs the tail"):
        NO_REFERENCE.score_at(0.01)
