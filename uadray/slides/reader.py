"""The one way to a slide: `open_slide`, then tiles at an exact mpp and a thumbnail.

Coordinates are integer level-0 pixels, origin top left, x then y. Outside the slide, and where it is transparent, it
is white. Label and macro images are never decoded: they show names.
"""

import math
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import cv2
import numpy as np
import numpy.typing as npt

from uadray.errors import SlideError
from uadray.slides.resample import resample

Rgb = npt.NDArray[np.uint8]

UPSAMPLING_LIMIT = 1.1
"""A 0.5 mpp model reads a 0.5032 mpp slide; beyond 10 % the pixels would be made up."""

THUMBNAIL_MPP = 4.0
THUMBNAIL_MAX_PX = 4096
"""Thumbnails are about 4 um a pixel (a 64 px tile at 1 mpp is 16 px there) and never larger than 4096 px a side."""

OVERVIEW_MAX_PX = 2**31
"""Pixels that are read for a thumbnail at the most, 1 to 2 minutes of decoding; more means a slide without pyramid."""


class Slide(Protocol):
    """An open slide. `level_sizes_px` and `downsamples` run from the finest level (0) to the coarsest."""

    slide_id: str
    mpp: float
    level_sizes_px: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]

    def read_region(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        """RGB [height, width, 3] at `level`, with x and y in pixels of that level; white outside.

        Raises:
            SlideError: reason `unreadable`.
        """
        ...

    def close(self) -> None:
        """Free the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_slide(path: Path, *, slide_id: str, mpp: float | None = None) -> Slide:
    """Open a slide of any format that OpenSlide knows.

    Args:
        path: a local file.
        slide_id: names the slide in errors and tile ids.
        mpp: micrometres per pixel of level 0; wins over what the file says.

    Raises:
        SlideError: `missing`, `unreadable` (no slide, or broken), or `no_mpp`: neither the file nor `mpp` gives the
            pixel size. It is never guessed.
    """
    from uadray.slides.openslide import OpenSlideSlide

    if not path.exists():
        raise SlideError(slide_id, "missing", f"no such file: {path}")
    return OpenSlideSlide.open(path, slide_id=slide_id, mpp=mpp)


def read_tile(slide: Slide, *, x_level0_px: int, y_level0_px: int, mpp: float, tile_px: int) -> Rgb:
    """One tile at exactly `mpp`, area-resampled from the next finer level.

    Returns:
        RGB [tile_px, tile_px, 3].

    Raises:
        SlideError: `unreadable`; or `too_coarse`: level 0 is more than 10 % coarser than `mpp`.
    """
    level = finer_level(slide, mpp)
    downsample = slide.downsamples[level]
    step = mpp / (slide.mpp * downsample)
    x, y = x_level0_px / downsample, y_level0_px / downsample
    pad = 0 if step >= 1 else 1  # bilinear reads half a pixel beyond the edge
    left, top = math.floor(x + 1e-6) - pad, math.floor(y + 1e-6) - pad
    side = math.ceil(tile_px * step + max(x - left, y - top) - 1e-6) + pad
    source = slide.read_region(level, left, top, side, side)
    return resample(source, offset_px=(x - left, y - top), step_px=step, side_px=tile_px)


def finer_level(slide: Slide, mpp: float) -> int:
    """The coarsest level that is not coarser than `mpp`.

    Raises:
        SlideError: reason `too_coarse`.
    """
    if slide.mpp > mpp * UPSAMPLING_LIMIT:
        raise SlideError(
            slide.slide_id, "too_coarse", f"level 0 has {slide.mpp:g} um/px, tiles were asked for at {mpp:g} um/px"
        )
    fitting = [i for i, d in enumerate(slide.downsamples) if slide.mpp * d <= mpp * (1 + 1e-3)]
    return fitting[-1] if fitting else 0


def thumbnail(slide: Slide) -> tuple[Rgb, float]:
    """The whole slide, small.

    Read in strips from the coarsest level that is fine enough: memory stays bounded on a slide without pyramid.

    Returns:
        RGB [h, w, 3] and its micrometres per pixel.

    Raises:
        SlideError: `unreadable`; or `no_overview`: no level is coarse enough to read whole.
    """
    width0, height0 = slide.level_sizes_px[0]
    factor = max(THUMBNAIL_MPP / slide.mpp, max(width0, height0) / THUMBNAIL_MAX_PX, 1.0)
    level = [i for i, d in enumerate(slide.downsamples) if d <= factor * (1 + 1e-3)][-1]
    width, height = slide.level_sizes_px[level]
    if width * height > OVERVIEW_MAX_PX:
        raise SlideError(
            slide.slide_id, "no_overview", f"its coarsest usable level is {width} x {height} px; add pyramid levels"
        )
    size = (max(1, round(width0 / factor)), max(1, round(height0 / factor)))
    return _shrink(slide, level, size), slide.mpp * width0 / size[0]


def _shrink(slide: Slide, level: int, size: tuple[int, int]) -> Rgb:
    width, height = slide.level_sizes_px[level]
    out_width, out_height = size
    rows_at_once = max(1, int(2**24 / max(width, 1) * out_height / height))  # strips of about 16 million pixels
    strips = []
    for row in range(0, out_height, rows_at_once):
        last = min(out_height, row + rows_at_once)
        top, bottom = round(row * height / out_height), round(last * height / out_height)
        strip = slide.read_region(level, 0, top, width, max(1, bottom - top))
        strips.append(cv2.resize(strip, (out_width, last - row), interpolation=cv2.INTER_AREA))
    return np.concatenate(strips)
