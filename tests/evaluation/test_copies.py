"""Planted copies are found: in features, and in pixels in whatever turn."""

import numpy as np
import pytest
import torch

from uadray.evaluation.copies import nearest_in_features, nearest_in_pixels, reduced, turned


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_copies_among_features(rng: np.random.Generator) -> None:
    real = torch.from_numpy(rng.normal(size=(60, 5)))
    fake = torch.cat([real[:20] + 30, real[7:17] + 1e-3])
    found = nearest_in_features(real, fake)
    assert found.share == pytest.approx(10 / 30)
    assert sorted(found.samples[:10].tolist()) == list(range(20, 30))
    assert (found.tiles[:10] == found.samples[:10] - 13).all()
    for sample, tile, neighbour, ratio in zip(found.samples, found.tiles, found.neighbours, found.ratios, strict=True):
        to_real = (real - fake[sample]).norm(dim=1)
        among_real = (real - real[tile]).norm(dim=1)
        among_real[tile] = torch.inf
        assert (int(to_real.argmin()), int(among_real.argmin())) == (tile, neighbour)
        assert ratio == pytest.approx(float(to_real.min() / among_real.min()), rel=1e-6)


def test_samples_of_the_same_distribution_are_nearer_half_of_the_time(rng: np.random.Generator) -> None:
    """In many dimensions, where one more tile changes little."""
    real, fake = (torch.from_numpy(rng.normal(size=(400, 3))) for _ in range(2))
    assert nearest_in_features(real, fake).share == pytest.approx(0.5, abs=0.15)


def test_turned_copies_among_pixels(rng: np.random.Generator) -> None:
    real = rng.integers(0, 256, size=(30, 20, 20, 3), dtype=np.uint8)
    others = rng.integers(0, 256, size=(10, 20, 20, 3), dtype=np.uint8)
    copies = np.concatenate([turned(real[i : i + 1], i) for i in range(8)])
    noisy = np.clip(copies + rng.integers(-5, 6, size=copies.shape), 0, 255).astype(np.uint8)
    found = nearest_in_pixels(real, np.concatenate([others, noisy]))
    assert sorted(found.samples[:8].tolist()) == list(range(10, 18))
    assert (found.tiles[:8] == found.samples[:8] - 10).all()
    assert found.ratios[7] < 0.5 < found.ratios[8]


def test_the_eight_turns_differ_and_keep_the_pixels() -> None:
    picture = np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3)
    views = [turned(picture, turn) for turn in range(8)]
    assert len({view.tobytes() for view in views}) == 8
    assert all(sorted(view.ravel().tolist()) == list(range(27)) for view in views)
    np.testing.assert_array_equal(views[0], picture)


def test_reduced_pictures_are_means() -> None:
    pictures = np.arange(2 * 32 * 32 * 3, dtype=np.int64).reshape(2, 32, 32, 3) % 200
    small = reduced(pictures.astype(np.uint8), 16)
    expected = pictures.reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(small, expected, atol=0.51)
    assert reduced(small, 64) is small
