"""Where lesions of a phantom lie."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.tissue import paint


def _tissue(image: np.ndarray) -> np.ndarray:
    """Darker than glass once nuclei and noise are blurred away, with fat cells closed: 0 or 1, [H, W] at 1 mpp."""
    mask = (cv2.GaussianBlur(image, (0, 0), 2).mean(axis=2) < 232).astype(np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((13, 13), np.uint8))


@pytest.mark.parametrize("seed", range(4))
def test_outlines_lie_within_tissue(seed: int) -> None:
    spec = PhantomSpec(1000, 700, mpp=1.0, lesion=True, stain=seed % 2, seed=seed)
    image, outlines = paint(spec)
    assert image.shape == (700, 1000, 3)
    assert 1 <= len(outlines) <= 4
    inside = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), outlines, 1) > 0
    tissue = _tissue(image) > 0
    assert tissue[inside].mean() > 0.98
    assert 0.03 < inside.sum() / tissue.sum() < 0.25
    normal, none = paint(replace(spec, lesion=False))
    assert none == []
    assert (_tissue(normal) > 0)[tissue].mean() > 0.95
