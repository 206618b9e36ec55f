"""Sharpness: of tiles, and of a thumbnail in blocks.

The energy of the finest detail over that of detail twice as large. It is a ratio of contrasts: pale, smooth or sparse
tissue scores as high as dense tissue when it is in focus, and noise scores higher. The variance of the Laplacian,
the usual measure (Pech-Pacheco 2000), is low for fat and stroma whether sharp or not.
"""

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from uadray.tissue import FULL_RESOLUTION_PX, reduction, shrink

Mask = npt.NDArray[np.bool_]

FOCUS_MPP = 1.0
"""Tiles are judged at about 1 um a pixel: at 0.25 um the finest detail of a sharp slide is already optics and noise."""

FOCUS_MIN_PX = 32
"""Tiles are not shrunk below this side; a ratio over fewer pixels is mostly chance."""

FOCUS_PX = 64
"""Nor is more than this side looked at where that will do: the time goes with the area."""

FLAT = 4.0
"""Standard deviation (of 255) of a tile's smoothed green below which there is nothing to judge. Of 1,281 tissue tiles
of PCam one is below 6.9, and that one is glass."""

BLOCK_UM = 256.0
"""Blocks of a thumbnail: 64 px at 4 um."""

_COLOURLESS = 25  # range of a tile's mean channels; the palest of 1,281 tissue tiles has 41, glass under 10


def focus(images: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.float64]:
    """How sharp each tile is: energy of detail below a Gaussian of 1 px over that between Gaussians of 1 and 2 px.

    On the green channel, shrunk to about `FOCUS_MPP` where pixels are finer. Medians: sharp tissue 1.1 to 5; at 1 um a
    pixel after blur of sigma 1 um 0.6, 1.5 um 0.4, 2 um 0.3, 3 um 0.2. For 0.25 to 3 um a pixel; above 1 um the blur
    that can be seen grows with the pixel (about 2 px).

    Args:
        images: RGB, [n, h, w, 3].
        mpp: micrometres per pixel.

    Returns:
        [n]; infinity for a tile that is too flat to judge.
    """
    factor = max(1, min(round(FOCUS_MPP / mpp), min(images.shape[1:3]) // FOCUS_MIN_PX))
    return np.array([_middle_first(shrink(cv2.extractChannel(image, 1), factor)) for image in images], dtype=np.float64)


def _middle_first(green: npt.NDArray[np.uint8]) -> float:
    """Sharpness of the middle, where it is not flat: focus changes slowly. Else of the whole tile."""
    height, width = green.shape
    top, left = max(0, height - FOCUS_PX) // 2, max(0, width - FOCUS_PX) // 2
    middle = green[top : height - top, left : width - left]
    sharpness = _sharpness(middle)
    return _sharpness(green) if math.isinf(sharpness) and middle.size < green.size else sharpness


def empty(images: npt.NDArray[np.uint8]) -> Mask:
    """Tiles of bare glass or air: flat, and either colourless or of a colour that no stain gives.

    Args:
        images: RGB, [n, h, w, 3].

    Returns:
        [n]
    """
    return np.array([_is_empty(image) for image in images], dtype=np.bool_)


def blurred_blocks(thumbnail: npt.NDArray[np.uint8], mpp: float, tissue: Mask, *, focus_min: float) -> Mask:
    """Blocks of 256 um, at least half tissue, whose sharpness is below `focus_min`.

    Args:
        thumbnail: RGB, [h, w, 3].
        mpp: micrometres per pixel of the thumbnail: blur of sigma below 1.5 of its pixels is not seen
            (3 px of one larger than 2048 x 2048).
        tissue: [h, w].
        focus_min: the least sharpness of what is in focus.

    Returns:
        [rows, columns] of the blocks.
    """
    factor = reduction(thumbnail.shape[0] * thumbnail.shape[1], FULL_RESOLUTION_PX)
    height, width = thumbnail.shape[:2]
    blocks = tuple(max(1, round(side * mpp / BLOCK_UM)) for side in (width, height))
    smooth, fine, coarse = _bands(shrink(cv2.extractChannel(thumbnail, 1), factor))
    energy_fine, energy_coarse, square, mean, share = (
        cv2.resize(plane.astype(np.float32), blocks, interpolation=cv2.INTER_AREA)
        for plane in (_squared(fine), _squared(coarse), _squared(smooth), smooth, tissue)
    )
    judged = (square - mean**2 >= FLAT**2) & (share >= 0.5)
    return np.asarray(judged & (energy_fine / (energy_coarse + 1) < focus_min), dtype=np.bool_)


def _sharpness(green: npt.NDArray[np.uint8]) -> float:
    smooth, fine, coarse = _bands(green.astype(np.float32))  # three times as fast as whole numbers
    margin = min(4, min(green.shape) // 8)  # what lies beyond the border is made up
    inner = (slice(margin, green.shape[0] - margin), slice(margin, green.shape[1] - margin))
    if cv2.meanStdDev(smooth[inner])[1].item() < FLAT:
        return float("inf")
    energy_fine, energy_coarse = (cv2.norm(band[inner], cv2.NORM_L2SQR) / band[inner].size for band in (fine, coarse))
    return float(energy_fine / (energy_coarse + 1))  # 1: as much as rounding to whole values makes of nothing


def _bands(green: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """The image below 2 px, and the amounts of detail above 1 px and between 1 and 2 px."""
    once, twice = cv2.GaussianBlur(green, (5, 5), 1.0), cv2.GaussianBlur(green, (9, 9), 2.0)
    return twice, cv2.absdiff(green, once), cv2.absdiff(once, twice)


def _squared(plane: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.asarray(np.square(plane, dtype=np.float32))


def _is_empty(image: npt.NDArray[np.uint8]) -> bool:
    if cv2.meanStdDev(_bands(cv2.extractChannel(image, 1))[0])[1].item() >= FLAT:
        return False
    red, green, blue, _ = cv2.mean(image)
    return max(red, green, blue) - min(red, green, blue) < _COLOURLESS or red < green
