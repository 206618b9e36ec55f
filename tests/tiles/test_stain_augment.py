"""Stain augmentation: which amounts of stain come out, and that white stays white."""

import numpy as np
from tiles.stain_mixtures import difference, mixture

from uadray.tiles.stain_augment import HED, augment


def _augmented(images: np.ndarray, seed: int = 0, alpha: float = 0.2, beta: float = 0.2) -> np.ndarray:
    return augment(images, np.random.default_rng(seed), sigma_alpha=alpha, sigma_beta=beta)


def test_without_sigma_nothing_changes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    assert difference(_augmented(images, alpha=0, beta=0), images).max() <= 1


def test_each_image_is_drawn_by_itself_and_by_the_seed() -> None:
    images = np.stack([mixture(side_px=32)] * 3)
    out = _augmented(images)
    assert (out.shape, out.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(out, _augmented(images))
    assert min(difference(out[0], out[1]).mean(), difference(out[1], out[2]).mean()) > 3
    assert difference(out, _augmented(images, seed=1)).mean() > 3
    assert _augmented(images[:0]).shape == (0, 32, 32, 3)


def test_white_stays_white_and_glass_within_six_levels() -> None:
    """Glass of 235 is scaled as if it were a little stain, and not shifted."""
    white, glass = np.full((200, 4, 4, 3), 255, np.uint8), np.full((200, 4, 4, 3), 235, np.uint8)
    assert _augmented(white).min() == 255
    assert difference(_augmented(glass), glass).max() <= 6


def test_factors_and_shifts_are_tellez() -> None:
    """Amounts of the three stains come out as alpha x + beta, with both inside their ranges and spread over them."""
    colours = HED / np.linalg.norm(HED, axis=1, keepdims=True)
    amounts = np.array([[0.4, 0.3, 0.2], [0.7, 0.3, 0.2], [0.4, 0.6, 0.2], [0.4, 0.3, 0.4]])
    image = (256 * np.exp(-amounts @ colours) - 1).round().astype(np.uint8)[None]  # [1, 4, 3]
    out = _augmented(np.stack([image] * 300)).reshape(300, 4, 3)

    def unmixed(pixels: np.ndarray) -> np.ndarray:
        return -np.log((pixels + 1.0) / 256) @ np.linalg.inv(colours)

    before, after = unmixed(image[0]), unmixed(out)
    steps = [(after[:, 1 + i, i] - after[:, 0, i]) / (before[1 + i, i] - before[0, i]) for i in range(3)]
    alphas = np.stack(steps, 1)
    betas = after[:, 0] - alphas * before[0]
    for drawn, centre in ((alphas, 1), (betas, 0)):
        assert np.abs(drawn - centre).max() < 0.2 + 0.08  # 8-bit pixels
        assert np.abs(drawn.mean(0) - centre).max() < 0.03
        assert np.abs(drawn.std(0) - 0.2 / np.sqrt(3)).max() < 0.03
