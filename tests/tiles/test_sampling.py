"""Random choices follow from their key alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uadray.tiles.sampling import draw


@given(n=st.integers(0, 50), count=st.integers(0, 60), key=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_draws_follow_from_their_key(n: int, count: int, key: tuple[int, int]) -> None:
    drawn = draw(n, count, key)
    assert len(set(drawn.tolist())) == len(drawn) == min(n, count)
    assert (np.diff(drawn) > 0).all()
    assert set(drawn.tolist()) <= set(range(n))
    np.testing.assert_array_equal(drawn, draw(n, count, key))


def test_another_key_draws_otherwise() -> None:
    assert draw(1000, 10, (0, 1)).tolist() != draw(1000, 10, (0, 2)).tolist()
