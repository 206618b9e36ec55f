"""Thumbnail -> tissue mask, and how much of each tile is tissue.

Stained tissue is coloured and glass is grey, so a pixel is tissue where its saturation (of HSV) is above a threshold:
Otsu's, "A threshold selection method from gray-level histograms" (1979). On a slide that is all tissue or all glass
this threshold would divide the only thing there is, so it is held between two bounds. Where there is dark tissue, it
takes pale tissue for glass, so what is left is compared with the colour of the glass (`_pale`). At the end narrow gaps
are closed, and small pieces dropped.

Large thumbnails are masked at half their resolution, and their pieces told apart at a quarter of it, to save time.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

SATURATION_LOW = 12
SATURATION_HIGH = 40
"""Bounds of the threshold, of 255. Glass of the scanners of `../shared/data` has below 10, faint eosin above 40."""

DARK = 25
"""Value of HSV (of 255) under which a pixel is ink or was not scanned. JPEG noise gives black a high saturation."""

SMALLEST_PIECE_UM2 = 2_500.0
"""Smaller pieces, below 50 x 50 um, are dust or noise."""

FULL_RESOLUTION_PX = 2048**2
"""Thumbnails of more pixels are masked at a half (a third, ...) of their resolution. At 8 um a pixel a tile of 64 px at
1 mpp is still 8 pixels wide."""

PALE, BRIGHT = 15, 128
"""Grey levels that pale tissue absorbs more of green than of red or blue, and the level of green above which a pixel
may be pale tissue. Pink haze on glass has up to 12."""

PALE_WIDTH_UM, PALE_MPP = 80.0, 8.0
"""Least width of a piece of pale tissue, and the resolution at which it is looked for."""

LABELLED_PX = 1024**2
OTSU_SAMPLE_PX = 1024**2
PALE_PX = 1024**2
"""The image is reduced to at most so many pixels for telling pieces apart, for fitting the threshold, and for looking
for pale tissue."""


def tissue_mask(thumbnail: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.bool_]:
    """The tissue of a slide.

    Args:
        thumbnail: RGB, [h, w, 3].
        mpp: micrometres per pixel of the thumbnail.

    Returns:
        [h, w], True on tissue.
    """
    height, width = thumbnail.shape[:2]
    factor = reduction(height * width, FULL_RESOLUTION_PX)
    image = shrink(thumbnail, factor)
    image = cv2.medianBlur(image, 3)
    mask = _coloured(image)
    mask |= _pale(image, mask, mpp * factor)
    side = 5 if factor == 1 else 3  # 20 to 24 um at 4 um a pixel
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    mask = _without_specks(mask, max(1.0, SMALLEST_PIECE_UM2 / (mpp * factor) ** 2))
    if factor > 1:
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(mask).view(np.bool_)


def shrink(image: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """An image reduced by a whole factor (area average), at least 1 px a side; itself for factor 1."""
    if factor == 1:
        return image
    size = (max(1, image.shape[1] // factor), max(1, image.shape[0] // factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def block_means(image: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """As `shrink`, but of whole pixels alone, without the last rows and columns where sides are no multiples of it.

    OpenCV takes five to ten times as long where it has to split pixels.
    """
    height, width = (max(1, side // factor) * factor for side in image.shape[:2])
    return shrink(image[:height, :width], factor)


def reduction(pixels: int, limit: int) -> int:
    """The least whole factor that brings an image of so many pixels under the limit."""
    return max(1, int(np.ceil(np.sqrt(pixels / limit))))


def _coloured(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[h, w], 1 where the saturation is above the threshold and the value above `DARK`."""
    step = reduction(image.shape[0] * image.shape[1], OTSU_SAMPLE_PX)
    size = (max(1, image.shape[1] // step), max(1, image.shape[0] // step))
    sample = image if step == 1 else cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    saturation = cv2.extractChannel(cv2.cvtColor(sample, cv2.COLOR_RGB2HSV), 1)
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    red, green, blue = cv2.split(image)
    # in place from here on: new memory takes twice the time
    high, low = cv2.max(red, green), cv2.min(red, green, dst=red)
    cv2.max(high, blue, dst=high)
    cv2.min(low, blue, dst=low)
    cv2.LUT(high, _lowest_grey(float(np.clip(otsu, SATURATION_LOW, SATURATION_HIGH))), dst=high)
    mask = np.asarray(cv2.compare(low, high, cv2.CMP_LT, dst=low), dtype=np.uint8)
    mask &= 1
    return mask


def _pale(image: npt.NDArray[np.uint8], coloured: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.uint8]:
    """[h, w], 1 on wide areas of pale tissue: coloured compared with the glass, though pale beside what is `coloured`.

    Where there is dark and pale tissue, Otsu's threshold lies between them. Pale tissue absorbs at least `PALE` grey
    levels more than grey would, and most of it in green, as both stains do and yellow glue, shadows and dust do not. It
    must be `PALE_WIDTH_UM` wide, which soft margins of tissue, membranes of fat and edges of cover slips are not.
    """
    height, width = coloured.shape
    factor = max(reduction(height * width, PALE_PX), int(PALE_MPP / mpp), 1)
    dark = shrink(coloured * np.uint8(255), factor)
    channels = cv2.split(shrink(image, factor))
    bright = channels[1] > BRIGHT
    glass = _glass(channels, bright & (dark == 0))
    if glass is None:
        return np.zeros_like(coloured)
    red, green, blue = (np.maximum(channel, level) - channel for level, channel in zip(glass, channels, strict=True))
    low, high = np.minimum(red, blue), np.maximum(red, blue)
    colour = cv2.blur(np.maximum(green, low) - low, (3, 3))
    pale = bright & (colour >= PALE) & (np.maximum(high, green) - green <= colour >> 2)
    side = 2 * max(2, round(PALE_WIDTH_UM / (mpp * factor) / 2)) + 1
    dark = (dark > 127).view(np.uint8)
    wide = _opened((pale.view(np.uint8) | dark) & (_opened(dark, side) ^ 1), side)
    return np.asarray(cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _opened(mask: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """The parts of a mask that a square of this side fits into."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((side_px, side_px), np.uint8)), dtype=np.uint8)


def _glass(channels: Sequence[npt.NDArray[np.uint8]], bare: npt.NDArray[np.bool_]) -> list[np.uint8] | None:
    """The colour of glass, among pixels that may be glass (`bare`); None where there are none.

    Its level of green is the brightest common one, not the most common one: pale tissue may cover more of a slide.
    """
    red, green, blue, counted = (np.ascontiguousarray(plane[::4, ::4]) for plane in (*channels, bare.view(np.uint8)))
    counts = _histogram(green, counted)
    if not counts.any():
        return None
    counts = counts + np.roll(counts, 1) + np.roll(counts, -1)
    level = int(np.flatnonzero(counts >= counts.max() / 4)[-1])
    counted &= (green >= max(level - 2, 0)) & (green <= min(level + 2, 255))
    below = (np.cumsum(_histogram(channel, counted)) for channel in (red, green, blue))
    return [np.uint8(np.searchsorted(counts, counts[-1] / 2)) for counts in below]


def _histogram(channel: npt.NDArray[np.uint8], counted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """[256] How often each level occurs, among the pixels where `counted` is not 0."""
    return np.asarray(cv2.calcHist([channel], [0], counted, [256], [0, 256]), dtype=np.float32).ravel()


@cache
def _lowest_grey(saturation: float) -> npt.NDArray[np.uint8]:
    """[256] By the largest channel of a pixel: below which smallest channel it is more saturated than this."""
    high = np.arange(256)[:, None]
    low = np.arange(256)[None]
    scale = np.rint((255 << 12) / np.maximum(high, 1)).astype(np.int64)
    exceeds = ((high - low) * scale + (1 << 11) >> 12 > saturation) & (high > DARK)
    return np.asarray(exceeds.sum(1), dtype=np.uint8)


def _without_specks(mask: npt.NDArray[np.uint8], smallest_px: float) -> npt.NDArray[np.uint8]:
    """The mask (0 and 1) without 8-connected pieces below `smallest_px`; large masks are labelled at half size."""
    height, width = mask.shape
    if height * width <= LABELLED_PX:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    else:
        share = shrink(mask * np.uint8(252), 2)  # 63 for each of the four pixels that become one
        _, labels = cv2.connectedComponents((share > 0).view(np.uint8), connectivity=8)
        areas = np.bincount(labels.ravel()).astype(np.float64)
        doubtful = (areas < smallest_px) & (4 * areas >= smallest_px)
        if doubtful.any():  # only these few are counted exactly
            inside = doubtful.take(labels)
            areas += np.bincount(labels[inside], weights=share[inside] / 63 - 1, minlength=len(areas))
    large = (areas >= smallest_px).astype(np.uint8)
    large[0] = 0  # label 0 is the background
    kept = large.take(labels)
    if kept.shape != mask.shape:
        kept = cv2.resize(kept, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.bitwise_and(mask, kept), dtype=np.uint8)


def tissue_fraction(
    mask: npt.NDArray[np.bool_],
    size_level0_px: tuple[int, int],
    x_level0_px: npt.NDArray[np.int64],
    y_level0_px: npt.NDArray[np.int64],
    width_level0_px: int | npt.NDArray[np.int64],
    height_level0_px: int | npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float64]:
    """The fraction of tissue (0 to 1) in each tile; what lies outside the slide counts as background.

    It is exact, taking each pixel of the mask as a constant area: an integral image is read between its nodes by
    bilinear interpolation.

    Args:
        mask: tissue of the whole slide, any resolution, [h, w].
        size_level0_px: width and height of the slide.
        x_level0_px: [n] left edges.
        y_level0_px: [n] upper edges.
        width_level0_px: of each tile, [n], or of all tiles.
        height_level0_px: likewise; the width unless given.

    Returns:
        [n] fractions.
    """
    height_level0_px = width_level0_px if height_level0_px is None else height_level0_px
    height, width = mask.shape
    integral = np.asarray(cv2.integral(mask.view(np.uint8), sdepth=cv2.CV_32S), dtype=np.int32)
    sx, sy = width / size_level0_px[0], height / size_level0_px[1]
    x0, x1 = (np.clip((x_level0_px + d) * sx, 0, width) for d in (0, width_level0_px))
    y0, y1 = (np.clip((y_level0_px + d) * sy, 0, height) for d in (0, height_level0_px))
    inside = _at(integral, y1, x1) - _at(integral, y0, x1) - _at(integral, y1, x0) + _at(integral, y0, x0)
    fraction: npt.NDArray[np.float64] = np.clip(inside / (width_level0_px * height_level0_px * sx * sy), 0, 1)
    return fraction


def _at(
    integral: npt.NDArray[np.int32], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The integral image at any points, [n] each, by bilinear interpolation."""
    top, left = (np.minimum(a.astype(np.int64), n - 2) for a, n in ((y, integral.shape[0]), (x, integral.shape[1])))
    fy, fx = y - top, x - left
    upper = integral[top, left] * (1 - fx) + integral[top, left + 1] * fx
    lower = integral[top + 1, left] * (1 - fx) + integral[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)
