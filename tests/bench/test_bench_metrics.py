"""What `bench metrics` compares rates with: the decisions of the same minute."""

import numpy as np
import pytest

from uadray.bench.metrics import WINDOW_S, rates_off


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
def test_a_rate_is_compared_with_the_decisions_of_its_minute(lag_s: float) -> None:
    """Ten slides a second for 100 s, then twenty: the minute that ends at 130 s has half of each."""
    decided = np.concatenate([np.arange(0, 100, 0.1), np.arange(100, 200, 0.05)])
    off = rates_off({90 + lag_s: 10.0, 130 + lag_s: 15.3, 190 + lag_s: 10.0}, decided, lag_s)
    assert off == pytest.approx([0, 0.02, -0.5], abs=2 / WINDOW_S)
