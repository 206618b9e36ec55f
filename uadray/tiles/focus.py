"""Tiles -> how sharp each of them is; thumbnail -> which of its blocks are out of focus.

Sharpness is the energy of the finest detail divided by the energy of detail twice as large. As a ratio of contrasts it
is as high for pale, smooth or sparse tissue in focus as for dense tissue in focus, and higher for noise. The usual
measure, the variance of the Laplacian (Pech-Pacheco 2000), is low for fat and stroma even where they are sharp.
"""

import itertools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from uadray.tiles.tissue import FULL_RESOLUTION_PX, block_means, reduction

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

FOCUS_MPP = 1.0
"""Tiles are judged at about 1 um a pixel: at 0.25 um the finest detail of a sharp slide is only optics and noise."""

FOCUS_MIN_PX = 32
"""Tiles are not shrunk below this side, because a ratio over fewer pixels is mostly chance."""

FOCUS_PX = 64
"""Of larger tiles the middle of this side is judged, to save time, unless the middle is too flat."""

STRIP_PX = 24
"""Rows in the middle of a tile that are looked at first: a third of the work, and enough for most tiles."""

CLEAR = 2.0
"""A tile whose strip is so many times as sharp as it must be, and as many times as uneven, is not looked at further. Of
16,733 tiles out of focus (real and painted, blurred by 0 to 3 um) the strips had at most 1.3 times `focus_min`."""

AT_ONCE = 32
"""Tiles that are filtered together, so that memory stays small where all of them are in doubt."""

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


def focus(
    images: npt.NDArray[np.uint8], mpp: float, *, which: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float64]:
    """The sharpness of each tile: energy of detail finer than 1 px over energy of detail between 1 and 2 px.

    It is measured on the green channel, shrunk to about `FOCUS_MPP` where pixels are finer. Medians of sharp tissue are
    1.1 to 5; at 1 um a pixel after blur of sigma 1 um 0.6, 1.5 um 0.4, 2 um 0.3, 3 um 0.2. It holds for 0.25 to 3 um a
    pixel; above 1 um only blur of about 2 px is seen, which is more micrometres the larger the pixel.

    Args:
        images: RGB, [n, h, w, 3].
        mpp: micrometres per pixel.
        which: indices of the images to judge; all unless given.

    Returns:
        [n], or one for each of `which`; infinity for a tile that is too flat to judge.
    """
    greens, factor = images[..., 1], _reduction(images, mpp)
    which = np.arange(len(images)) if which is None else which
    middles = _middle(greens, factor, FOCUS_PX)
    sharpness = _sharpness(middles[which], factor)
    if middles.shape != greens.shape:  # where the middle is flat the whole tile is judged; focus changes slowly within
        flat = np.flatnonzero(np.isinf(sharpness))
        sharpness[flat] = _sharpness(greens[which[flat]], factor)
    return sharpness


def clearly_sharp(images: npt.NDArray[np.uint8], mpp: float, *, focus_min: float) -> Mask:
    """Which tiles have a sharpness of at least `focus_min` beyond doubt, by a strip through their middle.

    Args:
        images: RGB, [n, h, w, 3].
        mpp: micrometres per pixel.
        focus_min: least sharpness of what is in focus.

    Returns:
        [n]; False says nothing: `focus` tells.
    """
    return is_clear(*strip_focus(images, mpp), focus_min=focus_min)


def is_clear(sharpness: Values, variance: Values, *, focus_min: float) -> Mask:
    """Which tiles are sharp beyond doubt, by what `strip_focus` says of them, [n]."""
    return np.asarray((sharpness >= CLEAR * focus_min) & (variance >= (CLEAR * FLAT) ** 2))


def strip_focus(images: npt.NDArray[np.uint8], mpp: float) -> tuple[Values, Values]:
    """Sharpness of a strip through the middle of each tile, and the variance of its smoothed green, [n] each.

    The sharpness is of the kind of `focus`, of fewer pixels: single values scatter more, the median of many does not.
    Below a variance of `FLAT` squared it says nothing.
    """
    if not len(images):
        return np.zeros(0), np.zeros(0)
    factor = _reduction(images, mpp)
    smooth, fine, coarse = _filtered(_middle(images[..., 1], factor, STRIP_PX), factor)
    n_px = fine[0].size
    square, energy_fine, energy_coarse = (np.einsum("nij,nij->n", band, band) / n_px for band in (smooth, fine, coarse))
    variance = square - (np.einsum("nij->n", smooth) / n_px) ** 2
    return np.asarray(energy_fine / (energy_coarse + 1), np.float64), np.asarray(variance, np.float64)


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
    green = np.asarray(block_means(np.asarray(cv2.extractChannel(thumbnail, 1), dtype=np.uint8), factor))
    tops, lefts = _edges(green.shape[0], rows), _edges(green.shape[1], columns)
    held = _half_tissue(tissue, len(tops) - 1, len(lefts) - 1)
    blurred = np.zeros(held.shape, np.bool_)
    for row in np.flatnonzero(held.any(1)):
        some = np.flatnonzero(held[row])
        blurred[row, some] = _are_blurred(green, tops[row : row + 2], lefts[some], lefts[some + 1], focus_min)
    return blurred


def _half_tissue(tissue: Mask, rows: int, columns: int) -> Mask:
    """[rows, columns] Which blocks are at least half tissue."""
    tops, lefts = _edges(tissue.shape[0], rows), _edges(tissue.shape[1], columns)
    sums = [  # of the columns of each row of blocks
        cv2.reduce(tissue[top:bottom].view(np.uint8), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0]
        for top, bottom in itertools.pairwise(tops.tolist())
    ]
    counts = np.add.reduceat(np.stack(sums), lefts[:-1], 1)
    return np.asarray(2 * counts >= np.outer(np.diff(tops), np.diff(lefts)))


def _are_blurred(
    green: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    lefts: npt.NDArray[np.int64],
    rights: npt.NDArray[np.int64],
    focus_min: float,
) -> list[bool]:
    """Whether each block of one row of blocks is uneven enough to be judged, and of a sharpness below `focus_min`."""
    top, left = max(0, rows[0] - MARGIN_PX), max(0, lefts[0] - MARGIN_PX)
    bands = _bands(green[top : rows[1] + MARGIN_PX, left : rights[-1] + MARGIN_PX])
    inner = slice(rows[0] - top, rows[1] - top)
    blurred = []
    for first, last in zip(lefts - left, rights - left, strict=True):
        smooth, fine, coarse = (band[inner, first:last] for band in bands)
        energy_fine, energy_coarse = (cv2.norm(band, cv2.NORM_L2SQR) / smooth.size for band in (fine, coarse))
        is_uneven = cv2.meanStdDev(smooth)[1].item() >= FLAT
        blurred.append(is_uneven and energy_fine < focus_min * (energy_coarse + 1))
    return blurred


def _reduction(images: npt.NDArray[np.uint8], mpp: float) -> int:
    """By how much tiles are reduced before they are judged."""
    return max(1, min(round(FOCUS_MPP / mpp), int(min(images.shape[1:3])) // FOCUS_MIN_PX))


def _middle(greens: npt.NDArray[np.uint8], factor: int, rows: int) -> npt.NDArray[np.uint8]:
    """The middle `rows` x `FOCUS_PX` of tiles [n, h, w] that are yet to be reduced by `factor`."""
    height, width = (side // factor for side in greens.shape[1:])
    top, left = (max(0, side - most) // 2 * factor for side, most in ((height, rows), (width, FOCUS_PX)))
    return greens[:, top : height * factor - top, left : width * factor - left]


def _sharpness(greens: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.float64]:
    """[n] The sharpness of tiles [n, h, w] reduced by `factor`; infinity for a tile that is flat."""
    if len(greens) > AT_ONCE:
        return np.concatenate([_sharpness(greens[i : i + AT_ONCE], factor) for i in range(0, len(greens), AT_ONCE)])
    if not len(greens):
        return np.zeros(0)
    smooth, fine, coarse = _filtered(greens, factor)
    energy_fine, energy_coarse = ([cv2.norm(each, cv2.NORM_L2SQR) for each in band] for band in (fine, coarse))
    n_px = fine[0].size  # the 1 below is the energy that rounding to whole values alone makes
    sharpness = np.array(energy_fine) / n_px / (np.array(energy_coarse) / n_px + 1)
    sharpness[[cv2.meanStdDev(each)[1].item() < FLAT for each in smooth]] = np.inf
    return np.asarray(sharpness, dtype=np.float64)


def _filtered(greens: npt.NDArray[np.uint8], factor: int) -> tuple[npt.NDArray[np.float32], ...]:
    """The `_bands` of tiles [n, h, w] reduced by `factor`, without the margins, where neighbours take part.

    All tiles are filtered together, as one picture in which they stand one below the other: for small images a call of
    OpenCV takes as long as its pixels.
    """
    height, width = (side // factor for side in greens.shape[1:])
    whole = np.ascontiguousarray(greens[:, : height * factor, : width * factor])
    stack = block_means(whole.reshape(-1, width * factor), factor).astype(np.float32)  # faster to filter than integers
    margin = min(MARGIN_PX, (min(height, width) - 1) // 2)
    return tuple(
        band.reshape(-1, height, width)[:, margin : height - margin, margin : width - margin] for band in _bands(stack)
    )


def _bands(green: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """The image smoothed by 2 px, its detail finer than 1 px, and its detail between 1 and 2 px."""
    once, twice = cv2.GaussianBlur(green, (5, 5), 1.0), cv2.GaussianBlur(green, (9, 9), 2.0)
    return twice, cv2.absdiff(green, once), cv2.absdiff(once, twice)


def _edges(side: int, blocks: int) -> npt.NDArray[np.int64]:
    """Where blocks of whole pixels begin and end."""
    return np.linspace(0, side, min(side, blocks) + 1).astype(np.int64)


def _is_empty(image: npt.NDArray[np.uint8]) -> bool:
    if cv2.meanStdDev(_bands(cv2.extractChannel(image, 1))[0])[1].item() >= FLAT:
        return False
    red, green, blue, _ = cv2.mean(image)
    return max(red, green, blue) - min(red, green, blue) < _COLOURLESS or red < green
