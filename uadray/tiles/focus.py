"""Tiles -> how sharp each of them is; thumbnail -> which of its blocks are out of focus.

Sharpness is the energy of the finest detail divided by the energy of detail twice as large. As a ratio of contrasts it
is as high for pale, smooth or sparse tissue in focus as for dense tissue in focus, and higher for noise. The usual
measure, the variance of the Laplacian (Pech-Pacheco 2000), is low for fat and stroma even where they are sharp.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from uadray.tiles.tissue import FULL_RESOLUTION_PX, reduction, shrink

Mask = npt.NDArray[np.bool_]

FOCUS_MPP = 1.0
"""Tiles are judged at about 1 um a pixel: at 0.25 um the finest detail of a sharp slide is only optics and noise."""

FOCUS_MIN_PX = 32
"""Tiles are not shrunk below this side, because a ratio over fewer pixels is mostly chance."""

FOCUS_PX = 64
"""Of larger tiles the middle of this side is judged, to save time, unless the middle is too flat."""

MARGIN_PX = 4
"""Reach of the wider Gaussian: closer to the border, pixels beyond it would take part."""

FLAT = 4.0
"""Standard deviation (of 255) of the smoothed green of a tile, below which there is nothing to judge. Of 1,281 tissue
tiles of PCam one is below 6.9, and that one is glass."""

BLOCK_UM = 256.0
"""Side of the blocks of a thumbnail: 64 px at 4 um a pixel."""

_COLOURLESS = 25
"""Difference between the largest and smallest mean channel of a tile. The palest of 1,281 tissue tiles has 41, glass
below 10."""


def focus(images: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.float64]:
    """The sharpness of each tile: energy of detail finer than 1 px over energy of detail between 1 and 2 px.

    It is measured on the green channel, shrunk to about `FOCUS_MPP` where pixels are finer. Medians of sharp tissue are
    1.1 to 5; at 1 um a pixel after blur of sigma 1 um 0.6, 1.5 um 0.4, 2 um 0.3, 3 um 0.2. It holds for 0.25 to 3 um a
    pixel; above 1 um only blur of about 2 px is seen, which is more micrometres the larger the pixel.

    Args:
        images: RGB, [n, h, w, 3].
        mpp: micrometres per pixel.

    Returns:
        [n]; infinity for a tile that is too flat to judge.
    """
    factor = max(1, min(round(FOCUS_MPP / mpp), min(images.shape[1:3]) // FOCUS_MIN_PX))
    height, width = (side // factor for side in images.shape[1:3])
    top, left = (max(0, side - FOCUS_PX) // 2 * factor for side in (height, width))
    sharpness = _sharpness(images[:, top : height * factor - top, left : width * factor - left], factor)
    if top or left:  # where the middle is flat the whole tile is judged; focus changes slowly within a tile
        flat = np.flatnonzero(np.isinf(sharpness))
        sharpness[flat] = _sharpness(images[flat], factor)
    return sharpness


def empty(images: npt.NDArray[np.uint8]) -> Mask:
    """Which tiles are bare glass or air: flat, and either colourless or of a colour that no stain gives.

    Args:
        images: RGB, [n, h, w, 3].

    Returns:
        [n]
    """
    return np.array([_is_empty(image) for image in images], dtype=np.bool_)


def blurred_blocks(thumbnail: npt.NDArray[np.uint8], mpp: float, tissue: Mask, *, focus_min: float) -> Mask:
    """Which blocks of 256 um are at least half tissue and of a sharpness below `focus_min`.

    Args:
        thumbnail: RGB, [h, w, 3].
        mpp: micrometres per pixel of the thumbnail. Blur of a sigma below 1.5 of its pixels is not seen (of 3 pixels
            where it is larger than 2048 x 2048 px).
        tissue: [h, w].
        focus_min: least sharpness of what is in focus.

    Returns:
        [rows, columns], one value a block.
    """
    factor = reduction(thumbnail.shape[0] * thumbnail.shape[1], FULL_RESOLUTION_PX)
    height, width = thumbnail.shape[:2]
    columns, rows = (max(1, round(side * mpp / BLOCK_UM)) for side in (width, height))
    smooth, fine, coarse = _bands(shrink(cv2.extractChannel(thumbnail, 1), factor))
    energy_fine, energy_coarse, square, mean, share = (
        _block_means(plane, rows, columns)
        for plane in (_squared(fine), _squared(coarse), _squared(smooth), smooth, tissue)
    )
    judged = (square - mean**2 >= FLAT**2) & (share >= 0.5)
    return np.asarray(judged & (energy_fine / (energy_coarse + 1) < focus_min), dtype=np.bool_)


def _sharpness(images: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.float64]:
    """[n] The sharpness of images [n, h, w, 3] reduced by `factor`; infinity for an image that is flat.

    All images are filtered together, as one picture in which they stand one below the other: for small images a call of
    OpenCV takes as long as its pixels. The margins, where neighbours take part, are left out.
    """
    if not len(images):
        return np.zeros(0)
    height, width = (side // factor for side in images.shape[1:3])
    greens = np.concatenate([_green(image, factor) for image in images])
    stack = greens.astype(np.float32)  # filters are faster on these than on integers
    margin = min(MARGIN_PX, (min(height, width) - 1) // 2)
    smooth, fine, coarse = (
        band.reshape(-1, height, width)[:, margin : height - margin, margin : width - margin] for band in _bands(stack)
    )
    energy_fine, energy_coarse = ([cv2.norm(each, cv2.NORM_L2SQR) for each in band] for band in (fine, coarse))
    n_px = fine[0].size  # the 1 below is the energy that rounding to whole values alone makes
    sharpness = np.array(energy_fine) / n_px / (np.array(energy_coarse) / n_px + 1)
    sharpness[[cv2.meanStdDev(each)[1].item() < FLAT for each in smooth]] = np.inf
    return np.asarray(sharpness, dtype=np.float64)


def _green(image: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    return shrink(np.asarray(cv2.extractChannel(image, 1), dtype=np.uint8), factor)


def _bands(green: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """The image smoothed by 2 px, its detail finer than 1 px, and its detail between 1 and 2 px."""
    once, twice = cv2.GaussianBlur(green, (5, 5), 1.0), cv2.GaussianBlur(green, (9, 9), 2.0)
    return twice, cv2.absdiff(green, once), cv2.absdiff(once, twice)


def _block_means(plane: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """[rows, columns] Means over blocks of whole pixels: OpenCV's, which splits pixels, takes three times as long."""
    rows, columns = min(rows, plane.shape[0]), min(columns, plane.shape[1])
    tops, lefts = (
        np.linspace(0, side, n + 1).astype(np.int64) for side, n in zip(plane.shape, (rows, columns), strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(plane, tops[:-1], 0, np.float32), lefts[:-1], 1)
    return np.asarray(sums / np.outer(np.diff(tops), np.diff(lefts)), dtype=np.float32)


def _squared(plane: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.asarray(np.square(plane, dtype=np.float32))


def _is_empty(image: npt.NDArray[np.uint8]) -> bool:
    if cv2.meanStdDev(_bands(cv2.extractChannel(image, 1))[0])[1].item() >= FLAT:
        return False
    red, green, blue, _ = cv2.mean(image)
    return max(red, green, blue) - min(red, green, blue) < _COLOURLESS or red < green
