"""Rules of densities on bytes say the same as on densities, for every pair of levels."""

import numpy as np
import pytest

from uadray.tiles.optical_density import brightest, channels_of, darkest, dense, denser, density, mean_densities

LEVELS = np.arange(256, dtype=np.uint8)
ONE, OTHER = (np.ascontiguousarray(levels) for levels in np.meshgrid(LEVELS, LEVELS))


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.05, 4.0])
@pytest.mark.parametrize("least", [0.0, 0.15])
def test_denser_for_every_pair_of_levels(ratio: float, least: float) -> None:
    by_density = (density(ONE) > np.float32(ratio) * density(OTHER)) & (density(ONE) > least)
    assert ((denser(ONE, OTHER, ratio, least=least) == 255) == by_density).all()
    assert 0 < by_density.mean() < 1


@pytest.mark.parametrize("least", [0.0, 0.25, 0.6])
def test_dense_for_every_level(least: float) -> None:
    assert ((dense(ONE, least) == 255) == (density(ONE) > least)).all()
    assert dense(ONE[:1, :1], least).shape == (1, 1)


def test_densities_of_single_pixels() -> None:
    image = np.array([[[240, 24, 0], [255, 120, 60]]], np.uint8)
    channels = channels_of(image)
    assert density(channels[1])[0] == pytest.approx([1.0, np.log10(2)])
    assert darkest(channels).tolist() == [[0, 60]]
    assert brightest(channels).tolist() == [[240, 255]]
    assert mean_densities(channels, np.array([[False, True]])) == pytest.approx([0, np.log10(2), np.log10(4)])
