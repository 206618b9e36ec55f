"""Thumbnail -> tissue mask: saturation, Otsu's threshold, pale tissue, closing, small pieces dropped.

Otsu (1979), "A threshold selection method from gray-level histograms". Stained tissue is coloured, glass is grey: the
saturation of HSV tells them apart on every scanner we know. Otsu alone fails on a slide that is all tissue or all
glass, where it cuts through the middle of the one thing there is; the threshold is therefore held between two bounds.
It also fails on pale tissue beside dark, which it takes for glass; so what is left is compared with the glass itself.

A 4096 x 4096 px thumbnail took 325 ms, a third of it in labelling pieces. Now the hue of HSV, which nobody asked for,
is computed for the threshold's sample only, and large thumbnails are masked at half their resolution and labelled at a
quarter.
"""

from collections.abc import Sequence
from functools import cache

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

FULL_RESOLUTION_PX = 2048**2
"""Thumbnails of more pixels are masked at a half (a third, ...) of their resolution: 8 um a pixel is still a ninth of
a 64 px tile at 1 mpp."""

PALE, BRIGHT = 15, 128
"""Grey levels that pale tissue takes of green beyond what it takes of red or blue, and the level of green above which a
pixel is pale at all. Pink haze on glass has up to 12."""

PALE_WIDTH_UM, PALE_MPP = 80.0, 8.0
"""Width of a piece of pale tissue, and the resolution it is looked for at."""

LABELLED_PX = 1024**2
OTSU_SAMPLE_PX = 1024**2
PALE_PX = 1024**2
"""Pixels that pieces are told apart on, that the threshold is fitted on, and that pale tissue is looked for on, at the
most."""


def tissue_mask(thumbnail: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.bool_]:
    """Where there is tissue.

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
    high, low = cv2.max(red, green), cv2.min(red, green, dst=red)  # from here in place: new memory takes twice the time
    cv2.max(high, blue, dst=high)
    cv2.min(low, blue, dst=low)
    cv2.LUT(high, _lowest_grey(float(np.clip(otsu, SATURATION_LOW, SATURATION_HIGH))), dst=high)
    mask = np.asarray(cv2.compare(low, high, cv2.CMP_LT, dst=low), dtype=np.uint8)
    mask &= 1
    return mask


def _pale(image: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.uint8]:
    """[h, w], 1 on wide areas that are coloured beside the glass, though pale beside what was `found`.

    Otsu parts dark from pale where there is both. Asked for here: at least `PALE` grey levels of absorption beyond
    grey, most of it in green, as both stains have it (yellow glue, shadows and dust have not), over `PALE_WIDTH_UM`, so
    that soft margins of tissue, membranes of fat and the edges of cover slips stay out.
    """
    height, width = found.shape
    factor = max(reduction(height * width, PALE_PX), int(PALE_MPP / mpp), 1)
    dark = shrink(found * np.uint8(255), factor)
    channels = cv2.split(shrink(image, factor))
    bright = channels[1] > BRIGHT
    glass = _glass(channels, bright & (dark == 0))
    if glass is None:
        return np.zeros_like(found)
    red, green, blue = (np.maximum(channel, level) - channel for level, channel in zip(glass, channels, strict=True))
    low, high = np.minimum(red, blue), np.maximum(red, blue)
    colour = cv2.blur(np.maximum(green, low) - low, (3, 3))
    pale = bright & (colour >= PALE) & (np.maximum(high, green) - green <= colour >> 2)
    side = 2 * max(2, round(PALE_WIDTH_UM / (mpp * factor) / 2)) + 1
    dark = (dark > 127).view(np.uint8)
    wide = _opened((pale.view(np.uint8) | dark) & (_opened(dark, side) ^ 1), side)
    return np.asarray(cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _opened(mask: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """What a square of that side fits into."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((side_px, side_px), np.uint8)), dtype=np.uint8)


def _glass(channels: Sequence[npt.NDArray[np.uint8]], bare: npt.NDArray[np.bool_]) -> list[np.uint8] | None:
    """The colour of glass, among what is `bare`; None where nothing is.

    Its level of green is the brightest of the common ones: pale tissue may cover more of a slide.
    """
    red, green, blue, where = (np.ascontiguousarray(plane[::4, ::4]) for plane in (*channels, bare.view(np.uint8)))
    counts = _histogram(green, where)
    if not counts.any():
        return None
    counts = counts + np.roll(counts, 1) + np.roll(counts, -1)
    level = int(np.flatnonzero(counts >= counts.max() / 4)[-1])
    where &= (green >= max(level - 2, 0)) & (green <= min(level + 2, 255))
    below = (np.cumsum(_histogram(channel, where)) for channel in (red, green, blue))
    return [np.uint8(np.searchsorted(counts, counts[-1] / 2)) for counts in below]


def _histogram(channel: npt.NDArray[np.uint8], where: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """[256], of the pixels that `where` is not 0 at."""
    return np.asarray(cv2.calcHist([channel], [0], where, [256], [0, 256]), dtype=np.float32).ravel()


@cache
def _lowest_grey(saturation: float) -> npt.NDArray[np.uint8]:
    """[256]: by a pixel's largest channel, what its smallest must be under for OpenCV's saturation to pass."""
    high = np.arange(256)[:, None]
    low = np.arange(256)[None]
    scale = np.rint((255 << 12) / np.maximum(high, 1)).astype(np.int64)
    exceeds = ((high - low) * scale + (1 << 11) >> 12 > saturation) & (high > DARK)
    return np.asarray(exceeds.sum(1), dtype=np.uint8)


def _without_specks(mask: npt.NDArray[np.uint8], smallest_px: float) -> npt.NDArray[np.uint8]:
    """The mask (0 and 1) without 8-connected pieces below `smallest_px`; a large one is labelled at half resolution."""
    height, width = mask.shape
    if height * width <= LABELLED_PX:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    else:
        share = shrink(mask * np.uint8(252), 2)  # 63 for each of four pixels
        _, labels = cv2.connectedComponents((share > 0).view(np.uint8), connectivity=8)
        areas = np.bincount(labels.ravel()).astype(np.float64)
        doubtful = (areas < smallest_px) & (4 * areas >= smallest_px)
        if doubtful.any():  # all the others are sure, and many
            where = doubtful.take(labels)
            areas += np.bincount(labels[where], weights=share[where] / 63 - 1, minlength=len(areas))
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
    """Fraction of tissue (0 to 1) in tiles; what lies outside the slide counts as background.

    Exact for a mask whose pixels are constant: an integral image, read between its nodes by bilinear interpolation.

    Args:
        mask: tissue of the whole slide, any resolution, [h, w].
        size_level0_px: width and height of the slide.
        x_level0_px: [n] left edges.
        y_level0_px: [n] upper edges.
        width_level0_px: of each tile, [n], or of all.
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
    top, left = (np.minimum(a.astype(np.int64), n - 2) for a, n in ((y, integral.shape[0]), (x, integral.shape[1])))
    fy, fx = y - top, x - left
    upper = integral[top, left] * (1 - fx) + integral[top, left + 1] * fx
    lower = integral[top + 1, left] * (1 - fx) + integral[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)
