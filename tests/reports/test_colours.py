"""The colour scale: refused where it is none, flat where it has to be."""

import numpy as np
import pytest

from uadray.reports.colours import colour, scale_colours


def test_colour_refuses_a_scale_that_is_none_and_takes_a_flat_one() -> None:
    with pytest.raises(ValueError, match="the lower first"):
        colour(np.zeros((2, 2)), low=1, high=0)
    with pytest.raises(ValueError, match="finite"):
        colour(np.zeros((2, 2)), low=float("nan"), high=0)
    pale, dark = colour(np.array([[1.0, 1.1]]), low=1, high=1)[0]
    assert pale.tolist() == scale_colours()[0].tolist()
    assert dark.tolist() == scale_colours()[-1].tolist()
