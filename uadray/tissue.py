"""Thumbnail -> tissue mask: saturation, Otsu's threshold, closing, small pieces dropped.

Otsu (1979), "A threshold selection method from gray-level histograms". Stained tissue is coloured, glass is grey: the
saturation of HSV tells them apart on every scanner we know. Otsu alone fails on a slide that is all tissue or all
glass, where it cuts through the middle of the one thing there is; the threshold is therefore held between two bounds.
"""

import cv2
import numpy as np
import numpy.typing as npt

SATURATION_LOW = 12
SATURATION_HIGH = 40
"""Bounds of the threshold, of 255. Glass on the scanners of `../shared/data` reads below 10, faint eosin above 40."""

DARK = 25
"""Value (of 255) under which a pixel is ink or an unscanned field: JPEG noise gives black a high saturation."""

SMALLEST_PIECE_UM2 = 2_500.0
"""Pieces below 50 x 50 um are dust or noise."""


def tissue_mask(thumbnail: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.bool_]:
    """Where there is tissue.

    Args:
        thumbnail: RGB, [h, w, 3].
        mpp: micrometres per pixel of the thumbnail.

    Returns:
        [h, w], True on tissue.
    """
    hsv = cv2.cvtColor(cv2.medianBlur(thumbnail, 3), cv2.COLOR_RGB2HSV)
    saturation, value = hsv[..., 1], hsv[..., 2]
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    threshold = float(np.clip(otsu, SATURATION_LOW, SATURATION_HIGH))
    mask = ((saturation > threshold) & (value > DARK)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    return _without_specks(mask, max(1.0, SMALLEST_PIECE_UM2 / mpp**2))


def _without_specks(mask: npt.NDArray[np.uint8], smallest_px: float) -> npt.NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= smallest_px
    large[0] = False  # label 0 is the background
    return np.asarray(large[labels], dtype=np.bool_)
