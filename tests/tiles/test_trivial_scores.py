"""The scores that every detector has to beat."""

import math

import numpy as np
import pytest

from uadray.tiles.trivial_scores import trivial_scores


@pytest.mark.parametrize("side", [8, 100, 300])
def test_trivial_scores_are_hsv_saturation_and_green(side: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, side, side, 3), np.uint8)
    images[0], images[1] = 200, (200, 100, 150)
    saturation, green = trivial_scores(images)
    high, low = images.max(-1).astype(float), images.min(-1).astype(float)
    tolerance = 0.002 if side < 128 else 0.03  # not every pixel of a larger one is looked at
    np.testing.assert_allclose(saturation, ((high - low) / np.maximum(high, 1)).mean((1, 2)), atol=tolerance)
    np.testing.assert_allclose(green, images[..., 1].mean((1, 2)) / 255, atol=tolerance)
    assert math.isclose(saturation[0], 0)
    assert math.isclose(saturation[1], 0.5, abs_tol=0.002)
