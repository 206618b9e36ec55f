"""Images whose stains are known: mixtures of two colours, of glass and of noise."""

import cv2
import numpy as np
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from uadray.tiles.stain import Stain

RUIFROK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))


MACENKO = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))


def unit(vector: object) -> tuple[float, float, float]:
    red, green, blue = np.asarray(vector, float) / np.linalg.norm(np.asarray(vector, float))
    return float(red), float(green), float(blue)


def stain(
    vectors: object = RUIFROK, maxima: tuple[float, float] = (1.6, 1.1), background: float = 242.0, **fields: float
) -> Stain:
    first, second = vectors  # type: ignore[misc]
    return Stain(haematoxylin=unit(first), eosin=unit(second), maxima=maxima, background=(background,) * 3, **fields)


def mixture(
    vectors: object = RUIFROK, *, side_px: int = 200, glass: float = 242.0, noise: float = 2.0, strength: float = 1.0
) -> np.ndarray:
    """Nuclei rich in haematoxylin (four of ten pixels), ground rich in eosin; each with some of the other."""
    rng, n = np.random.default_rng(1), side_px**2
    nucleus = rng.random(n) < 0.4
    h = np.where(nucleus, rng.normal(1.4, 0.3, n), rng.gamma(2, 0.08, n)).clip(0) * strength
    e = np.where(nucleus, rng.gamma(2, 0.1, n), rng.normal(0.8, 0.25, n)).clip(0) * strength
    density = np.stack([h, e], 1) @ np.array([unit(v) for v in vectors])  # type: ignore[attr-defined]
    light = (glass + 1) * np.exp(-density) - 1 + rng.normal(0, noise, density.shape)
    return light.clip(0, 255).round().astype(np.uint8).reshape(side_px, side_px, 3)


def framed(image: np.ndarray, glass: int, width_px: int = 60) -> np.ndarray:
    return cv2.copyMakeBorder(image, *[width_px] * 4, cv2.BORDER_CONSTANT, value=(glass,) * 3)


def degrees_between(a: object, b: object) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(unit(a), unit(b)), -1, 1))))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


def as_stain(oracle: NumpyMacenkoNormalizer) -> Stain:
    h, e = oracle.HERef.T
    return stain((h, e), tuple(oracle.maxCRef), 239.0, percentile=99)
