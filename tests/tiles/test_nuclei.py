"""Nuclei of painted tiles, of which number, size, shape and stain are known."""

import math

import cv2
import numpy as np
import pytest

from uadray.tiles.nuclei import MEASURES, find_nuclei, haematoxylin, measured
from uadray.tiles.stain import Rgb
from uadray.tiles.stain_augment import HED

UNIT = HED / np.linalg.norm(HED, axis=1, keepdims=True)
Nucleus = tuple[float, float, float, float]
"""Centre x and y, half axes; in um."""


def painted(nuclei: list[Nucleus], *, mpp: float, side_um: float = 96.0, amount: float = 1.2) -> Rgb:
    """A pink tile with nuclei, drawn 8 times as fine and reduced: edges are as soft as a scanner's."""
    fine, side = 8, round(side_um / mpp)
    image = np.zeros((side * fine, side * fine), np.float32)
    for x, y, a, b in nuclei:
        centre = (round(x / mpp * fine), round(y / mpp * fine))
        cv2.ellipse(image, centre, (round(a / mpp * fine), round(b / mpp * fine)), 0, 0, 360, amount, -1)
    stains = np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.full((side, side), 0.3)], -1)
    return np.clip(256 * np.exp(-stains @ UNIT[:2]) - 1, 0, 255).round().astype(np.uint8)


def grid(radius_um: float, *, per_side: int = 4, side_um: float = 96.0) -> list[Nucleus]:
    places = (np.arange(per_side) + 0.5) * side_um / per_side
    return [(x, y, radius_um, radius_um) for x in places for y in places]


def of(image: Rgb, mpp: float) -> dict[str, float]:
    return dict(zip(MEASURES, measured(image, mpp).tolist(), strict=True))


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.972])
@pytest.mark.parametrize("radius_um", [3.0, 4.5, 7.0])
def test_number_and_size_are_those_painted_at_any_resolution(mpp: float, radius_um: float) -> None:
    found = of(painted(grid(radius_um), mpp=mpp), mpp)
    assert found["per_1000_um2"] == pytest.approx(16 / 96**2 * 1e3, rel=0.02)
    assert found["diameter_50_um"] == pytest.approx(2 * radius_um, rel=0.05)
    assert found["diameter_sd_um"] < 0.1 * radius_um
    assert found["share"] == pytest.approx(16 * math.pi * radius_um**2 / 96**2, rel=0.2)
    assert found["eccentricity_mean"] < 0.4


def test_sizes_that_differ_are_told_apart() -> None:
    mixed = [n if i % 2 else (n[0], n[1], 7.0, 7.0) for i, n in enumerate(grid(3.5))]
    found = of(painted(mixed, mpp=0.5), 0.5)
    assert found["diameter_10_um"] == pytest.approx(7, rel=0.1)
    assert found["diameter_90_um"] == pytest.approx(14, rel=0.1)
    assert found["diameter_mean_um"] == pytest.approx(10.5, rel=0.1)
    assert found["diameter_sd_um"] == pytest.approx(3.5, rel=0.1)


def test_nuclei_that_touch_are_parted() -> None:
    pairs = [(x + shift, y, 4.0, 4.0) for x, y, _, _ in grid(4.0, per_side=3) for shift in (-3.5, 3.5)]
    for mpp in (0.5, 0.972):
        found = of(painted(pairs, mpp=mpp), mpp)
        assert found["per_1000_um2"] == pytest.approx(18 / 96**2 * 1e3, rel=0.02)
        assert found["diameter_50_um"] == pytest.approx(8, rel=0.08)


def test_long_nuclei_are_eccentric() -> None:
    long = [(x, y, 7.0, 2.8) for x, y, _, _ in grid(1.0)]
    assert of(painted(long, mpp=0.5), 0.5)["eccentricity_mean"] == pytest.approx(math.sqrt(1 - 0.16), abs=0.03)


def test_chromatin_is_the_stain_inside() -> None:
    pale, dark = (of(painted(grid(6.0), mpp=0.5, amount=amount), 0.5) for amount in (0.7, 1.4))
    assert pale["chromatin_mean"] == pytest.approx(0.7, rel=0.1)
    assert dark["chromatin_mean"] == pytest.approx(1.4, rel=0.1)
    assert dark["haematoxylin_outside"] < 0.15


def test_haematoxylin_is_parted_from_eosin() -> None:
    eosin_alone = painted([], mpp=1.0, side_um=8)
    assert haematoxylin(eosin_alone).max() < 0.03
    both = painted([(4.0, 4.0, 9.0, 9.0)], mpp=1.0, side_um=8, amount=0.8)
    np.testing.assert_allclose(haematoxylin(both), 0.8, atol=0.03)


@pytest.mark.parametrize("level", [0, 200, 255])
def test_a_tile_without_nuclei_has_none_and_no_number_that_is_none(level: int) -> None:
    found = measured(np.full((32, 32, 3), level, np.uint8), 0.972)
    assert np.isfinite(found).all()
    assert find_nuclei(haematoxylin(np.full((32, 32, 3), 255, np.uint8)), 0.5).labels.max() == 0
    if level:
        assert not found[:-1].any()


def test_noise_is_measured_without_fail_and_the_same_twice() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    for image in noise:
        first = measured(image, 0.972)
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, measured(image.copy(), 0.972))
