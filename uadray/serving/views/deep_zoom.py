"""A slide as a pyramid of square pictures, as a viewer asks for it: levels by powers of two, tiles of 512 px.

The finest level is level 0 of the slide; each below it is half as large, down to one pixel. Tiles do not overlap, and
those at the right and lower edge are as large as what is left of the slide. Pixels are area means (`slides.resample`),
read from the level of the file that is fine enough.
"""

from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg

from uadray.errors import SlideError
from uadray.slides.resample import resample
from uadray.slides.slide import Rgb, Slide
from uadray.slides.tile_reading import read_place, tile_places

TILE_PX = 512

JPEG_QUALITY = 85

WHITE = (255, 255, 255)

SMALLEST = 8
"""The coarsest level that a viewer should ask for: 256 px for the longer side."""

MAX_COARSER = 0.03
"""A level of the file that is coarser by no more than this is taken as it is, as for the tiles of a screening."""

Size = tuple[int, int]
"""Width and height."""

Overview = Callable[[], tuple[Rgb, float]]
"""The slide's thumbnail and its mpp; it is made when it is first asked for."""


def max_level(size: Size) -> int:
    """The number of the finest level.

    >>> max_level((1440, 1000)), max_level((1024, 7)), max_level((1, 1))
    (11, 10, 0)
    """
    return (max(size) - 1).bit_length()


def min_level(size: Size) -> int:
    """The coarsest level that is worth asking for."""
    return min(SMALLEST, max_level(size))


def tile_size(size: Size, level: int, x: int, y: int) -> Size | None:
    """Width and height of a tile; None where there is none.

    >>> tile_size((1440, 1000), 11, 2, 1), tile_size((1440, 1000), 0, 0, 0), tile_size((1440, 1000), 11, 3, 0)
    ((416, 488), (1, 1), None)
    """
    top = max_level(size)
    if not 0 <= level <= top or x < 0 or y < 0:
        return None
    width, height = (-(-side // (1 << (top - level))) for side in size)
    across, down = width - x * TILE_PX, height - y * TILE_PX
    return (min(TILE_PX, across), min(TILE_PX, down)) if across > 0 and down > 0 else None


def scale_of(size: Size, level: int) -> int:
    """Level-0 pixels for one pixel of a level, along each side."""
    return 1 << (max_level(size) - level)


def zoom_tile(slide: Slide, level: int, x: int, y: int, *, overview: Overview) -> Rgb:
    """The pixels of a tile.

    Args:
        slide: open.
        level: of `max_level(...)` at most.
        x: column of the tile.
        y: row of the tile.
        overview: what tiles are made of for which the file has no level that is coarse enough.

    Raises:
        SlideError: as `Slide.read_region`; `outside`: there is no such tile.
    """
    size = slide.level_sizes_px[0]
    shown = tile_size(size, level, x, y)
    if shown is None:
        raise SlideError(slide.slide_id, "outside", f"no tile {x}, {y} at level {level}")
    if level < min_level(size):
        return _shrunk(zoom_tile(slide, min_level(size), 0, 0, overview=overview), 1 << (min_level(size) - level))
    scale, side = scale_of(size, level), max(shown)
    corner = (x * TILE_PX * scale, y * TILE_PX * scale)
    pixels = np.empty((side, side, 3), np.uint8)
    try:
        places = tile_places(
            slide, [corner[0]], [corner[1]], mpp=slide.mpp * scale, tile_px=side, max_coarser=MAX_COARSER
        )
        read_place(slide, places, 0, pixels)
    except SlideError as error:
        if error.reason != "too_large":
            raise
        _from_overview(pixels, corner, scale * slide.mpp, slide.mpp, overview())
    return pixels[: shown[1], : shown[0]]


def jpeg(pixels: Rgb) -> bytes:
    """A picture as JPEG, with colours at half the resolution: a third fewer bytes."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="420")
    return data


def _shrunk(pixels: Rgb, by: int) -> Rgb:
    """A whole level, so many times smaller: levels of which nobody sees more than a few pixels."""
    height, width = pixels.shape[:2]
    padded = cv2.copyMakeBorder(pixels, 0, -height % by, 0, -width % by, cv2.BORDER_CONSTANT, value=WHITE)
    size = (padded.shape[1] // by, padded.shape[0] // by)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)


def _from_overview(out: Rgb, corner: Size, mpp: float, mpp_level0: float, overview: tuple[Rgb, float]) -> None:
    """Write a square of the thumbnail, resampled to `mpp`, to `out`; white outside."""
    image, image_mpp = overview
    step, side = mpp / image_mpp, len(out)
    at = [position * mpp_level0 / image_mpp for position in corner]
    first = [int(position) - 1 for position in at]
    reach = int(np.ceil(side * step)) + 3
    source = np.full((reach, reach, 3), 255, np.uint8)
    left, top = (max(position, 0) for position in first)
    part = image[top : max(first[1] + reach, 0), left : max(first[0] + reach, 0)]
    source[top - first[1] : top - first[1] + part.shape[0], left - first[0] : left - first[0] + part.shape[1]] = part
    offset_px = (at[0] - first[0], at[1] - first[1])
    resample(source, offset_px=offset_px, step_px=(step, step), side_px=side, out=out)
