"""Where a tile differs from its reconstruction, in colours and by an outline."""

import numpy as np
import pytest

from uadray.reports.colours import colour
from uadray.reports.differences import HIGH, OUTLINE_SIDE, OUTLINED, difference, difference_picture, outlined

PALE = np.full((40, 40, 3), 210, np.uint8)


def test_the_difference_is_in_grey_levels_on_one_scale() -> None:
    other = PALE.copy()
    other[3, 5] = (210, 180, 0)
    values = difference(PALE, other)
    assert values[3, 5] == pytest.approx((30 + 210) / 3)
    assert values.sum() == values[3, 5]
    np.testing.assert_array_equal(difference_picture(values), colour(values, low=0, high=HIGH))
    with pytest.raises(ValueError, match="expected one size"):
        difference(PALE, other[:20])


def test_an_outline_encloses_what_is_highest_and_little_else() -> None:
    residual = np.zeros((20, 20), np.float32)
    residual[12:16, 4:8] = 3.0  # of maps smaller than the picture
    drawn = outlined(PALE, residual)
    assert drawn.shape == (OUTLINE_SIDE, OUTLINE_SIDE, 3)
    rows, columns = np.nonzero(drawn[..., 2] < 60)  # the line is yellow
    scale = OUTLINE_SIDE / 20
    assert 11 * scale < rows.min() < 14 * scale < rows.max() < 17 * scale
    assert 3 * scale < columns.min() < 6 * scale < columns.max() < 9 * scale
    area = (rows.max() - rows.min()) * (columns.max() - columns.min()) / OUTLINE_SIDE**2
    assert 0.5 * OUTLINED < area < 3 * OUTLINED


def test_nothing_is_outlined_where_nothing_differs_more() -> None:
    for residual in (np.zeros((40, 40), np.float32), np.full((1, 1), 4.0, np.float32)):
        assert (outlined(PALE, residual) == 210).all()


def test_a_large_picture_keeps_its_size() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8)
    drawn = outlined(picture, np.eye(200, 240, dtype=np.float32))
    assert drawn.shape == picture.shape
    assert (drawn == picture).all(2).mean() > 0.7
    assert not (drawn == picture).all()
