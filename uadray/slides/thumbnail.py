"""A slide as one small picture, from which tissue, quality and stain are worked out."""

import itertools

import cv2
import numpy as np

from uadray.errors import SlideError
from uadray.slides.slide import Rgb, Slide, unusable_levels

THUMBNAIL_MPP = 4.0
THUMBNAIL_MAX_PX = 4096
"""Thumbnails are about 4 um a pixel (a 64 px tile at 1 mpp is 16 px there) and never larger than 4096 px a side."""

COARSER = 1.03
"""A level whose pixels are up to so many times the size asked for is taken as it is. Levels at 4.04 um are common (16 x
0.2525), and the next finer one has 16 times as many pixels to decode."""

OVERVIEW_MAX_PX = 2**31
"""At most this many pixels are read for a thumbnail, 1 to 2 minutes of decoding. A slide that needs more has no
pyramid."""


def thumbnail(slide: Slide) -> tuple[Rgb, float]:
    """The whole slide, small.

    It is read from the coarsest level that is fine enough, some rows at a time, so that memory stays bounded on a slide
    without pyramid; or it is a level that is hardly too coarse.

    Returns:
        RGB [h, w, 3] and its micrometres per pixel.

    Raises:
        SlideError: `unreadable`; or `no_overview`: no level is coarse enough to read whole.
    """
    width0, height0 = slide.level_sizes_px[0]
    factor = max(THUMBNAIL_MPP / slide.mpp, max(width0, height0) / THUMBNAIL_MAX_PX, 1.0)
    level = [i for i, factors in enumerate(slide.downsamples) if max(factors) <= factor * COARSER][-1]
    width, height = slide.level_sizes_px[level]
    if width * height > OVERVIEW_MAX_PX:
        raise SlideError(
            slide.slide_id,
            "no_overview",
            f"its coarsest usable level is {width} x {height} px; add pyramid levels{unusable_levels(slide)}",
        )
    size = (max(1, round(width0 / factor)), max(1, round(height0 / factor)))
    if max(slide.downsamples[level]) > factor * (1 + 1e-3):
        size = width, height
    return _shrink(slide, level, size), slide.mpp * width0 / size[0]


def _shrink(slide: Slide, level: int, size: tuple[int, int]) -> Rgb:
    """A whole level, shrunk to this width and height."""
    width, height = slide.level_sizes_px[level]
    out_width, out_height = size
    rows_at_once = max(1, int(2**24 / max(width, 1) * out_height / height))  # about 16 million pixels of the level
    rows = [*range(0, out_height, rows_at_once), out_height]
    edges = [round(row * height / out_height) for row in rows]
    boxes = [(0, top, width, max(1, bottom - top)) for top, bottom in itertools.pairwise(edges)]
    slide.will_read(level, np.array(boxes, np.int64))
    bands = []  # as wide as the slide, from top to bottom
    for box, (first, last) in zip(boxes, itertools.pairwise(rows), strict=True):
        band, band_size = slide.read_region(level, *box), (out_width, last - first)
        is_small = (box[2], box[3]) == band_size  # OpenCV takes time even where there is nothing to shrink
        bands.append(band if is_small else cv2.resize(band, band_size, interpolation=cv2.INTER_AREA))
    return bands[0] if len(bands) == 1 else np.concatenate(bands)
