"""Tile scores as a picture that lies on the slide: one number a pixel, of any resolution, in bounded memory.

A pixel belongs to a tile when its centre does, so neighbours share no pixel and leave none between them; a tile that
covers no centre takes the pixel that its own centre is in. Where tiles overlap the highest score is seen, and a coarser
level of a pyramid has the highest of its four pixels: an abnormal tile is seen at every level, and no number is made up
by averaging.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uadray.errors import InputError, SlideError
from uadray.exports.exported_slide import ExportedSlide, ExportOptions, Scale
from uadray.reports.colours import TINT, colour, share

Floats = NDArray[np.float32]
Region = tuple[int, int, int, int]
"""x, y, width and height in level-0 pixels."""

MAX_PIXELS = 2**24
"""Of a picture: 64 MiB of scores. 200,000 x 200,000 px of tiles of 450 px are 12.5 million pixels of 56 px."""

PIXELS_A_TILE = 8
"""A tile is 8 to 16 pixels wide, so that its edges, which are not whole pixels, are off by a sixteenth at most."""

MAX_SIDE_LEVEL0_PX = 2**28
"""The longest side of a slide that is believed. The grid of tiles is bounded in the same way (`tiles.grid`)."""

NO_SCORE = (0, 70, 160)
"""Colour of tiles without a score: on no point of the colour scale, as in `reports.heatmap`."""


@dataclass(frozen=True)
class Raster:
    """A picture of scores.

    Attributes:
        scores: [h, w]; NaN where no tile has a score.
        unscored: bool [h, w]: on a tile without a score, and on none that has one.
        region: what it shows: the whole slide, or its bounds. Its last column and row may reach beyond.
        downsample: level-0 pixels a pixel, along both sides.
    """

    scores: Floats
    unscored: NDArray[np.bool_]
    region: Region
    downsample: int

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return self.scores.shape[1], self.scores.shape[0]

    def halved(self) -> "Raster":
        """The next coarser level of the pyramid: half the size, rounded up."""
        scores, unscored = _highest_of_four(self.scores), _highest_of_four(self.unscored.astype(np.float32)) > 0
        return Raster(scores, unscored & np.isnan(scores), self.region, 2 * self.downsample)


def raster(slide: ExportedSlide, options: ExportOptions, *, max_pixels: int = MAX_PIXELS) -> Raster:
    """The scores of a slide's tiles as a picture whose downsample is a power of two.

    Raises:
        SlideError: `too_large`: no slide is of that size.
    """
    region = shown_region(slide, options)
    side_px = float(np.median(slide.tiles["width_level0_px"].to_numpy())) if len(slide.tiles) else 1.0
    downsample = power_of_two(region[2:], side_px, max_pixels=max_pixels)
    shape = (-(-region[3] // downsample), -(-region[2] // downsample))
    scores, unscored = painted(slide.tiles, shape=shape, pixel_level0_px=(downsample, downsample), origin=region[:2])
    return Raster(scores, unscored, region, downsample)


def shown_region(slide: ExportedSlide, options: ExportOptions) -> Region:
    """The level-0 pixels that are shown: all, or the bounds in the coordinates that QuPath shows.

    Of a slide whose size nothing tells it is from the upper left corner to its last tile.
    """
    bounds, size = slide.bounds_level0_px, slide.size_level0_px
    if options.coordinates == "qupath" and bounds is not None:
        region = (int(bounds[0]), int(bounds[1]), int(bounds[2]), int(bounds[3]))
    elif size is not None:
        region = (0, 0, *size)
    else:
        ends = (_column(slide.tiles, a) + _column(slide.tiles, b) for a, b in (("x", "width"), ("y", "height")))
        width, height = (int(end.max(initial=1)) for end in ends)
        region = (0, 0, width, height)
    if not (0 < region[2] <= MAX_SIDE_LEVEL0_PX and 0 < region[3] <= MAX_SIDE_LEVEL0_PX):
        raise SlideError(slide.slide_id, "too_large", f"its decision says that it is {region[2]} x {region[3]} px")
    return region


def power_of_two(size_level0_px: tuple[int, int], tile_level0_px: float, *, max_pixels: int = MAX_PIXELS) -> int:
    """The downsample of a picture: such that a tile is 8 to 16 pixels, or more level-0 pixels where that is too large.

    >>> power_of_two((100_000, 80_000), 448), power_of_two((2_000_000, 2_000_000), 64)
    (32, 512)
    """
    downsample = 1
    while 2 * downsample * PIXELS_A_TILE <= tile_level0_px:
        downsample *= 2
    while -(-size_level0_px[0] // downsample) * -(-size_level0_px[1] // downsample) > max_pixels:
        downsample *= 2
    return downsample


def painted(
    tiles: pa.Table, *, shape: tuple[int, int], pixel_level0_px: tuple[float, float], origin: tuple[int, int] = (0, 0)
) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores [h, w], NaN where none is; and where there is a tile without a score and none with one.

    Args:
        tiles: rows of `TILE_SCORES`.
        shape: height and width.
        pixel_level0_px: width and height of a pixel in level-0 pixels.
        origin: the level-0 place of the upper left corner.
    """
    windows = _windows(tiles, shape=shape, pixel_level0_px=pixel_level0_px, origin=origin)
    scores = np.asarray(tiles["score"].to_numpy(zero_copy_only=False), dtype=np.float32)
    finite = np.isfinite(scores)
    picture, unscored = np.full(shape, np.nan, np.float32), np.zeros(shape, np.bool_)
    order = np.flatnonzero(finite)[np.argsort(scores[finite], kind="stable")]  # painted last is seen: the highest
    for (x0, y0, x1, y1), score in zip(windows[order].tolist(), scores[order].tolist(), strict=True):
        picture[y0:y1, x0:x1] = score
    for x0, y0, x1, y1 in windows[~finite].tolist():
        unscored[y0:y1, x0:x1] = True
    return picture, unscored & np.isnan(picture)


def rgba(picture: Raster, scale: Scale) -> NDArray[np.uint8]:
    """The colours of the house's heatmaps, uint8 [h, w, 4]: more opaque the higher the score, transparent without tile.

    `NO_SCORE` is the colour of tiles without a score.
    """
    shares = share(picture.scores, low=scale.low, high=scale.high)
    alpha = np.rint(255 * (TINT[0] + (TINT[1] - TINT[0]) * shares)).astype(np.uint8)
    colours = np.dstack([colour(picture.scores, low=scale.low, high=scale.high), alpha])
    colours[np.isnan(picture.scores)] = 0
    colours[picture.unscored] = (*NO_SCORE, round(255 * TINT[1]))
    return colours


def rgb(picture: Raster, scale: Scale) -> NDArray[np.uint8]:
    """The same colours without transparency on white, uint8 [h, w, 3]."""
    colours, scored = np.full((*picture.scores.shape, 3), 255, np.uint8), ~np.isnan(picture.scores)
    colours[scored] = colour(picture.scores[scored], low=scale.low, high=scale.high)
    colours[picture.unscored] = NO_SCORE
    return colours


def colour_scale(slide: ExportedSlide) -> Scale:
    """The scale of a slide's colours.

    Raises:
        InputError: the calibration that would say it cannot be read. Colours that depend on the slide's own scores
            would make every slide look abnormal.
    """
    if slide.scale is None:
        raise InputError(f"no calibration says which colours scores have ({slide.why_no_scale})")
    return slide.scale


def pyramid(picture: Raster, *, smallest_px: int) -> Iterator[Raster]:
    """A picture and its coarser levels, until one is at most `smallest_px` wide and high."""
    yield picture
    while max(picture.size_px) > smallest_px:
        picture = picture.halved()
        yield picture


def _windows(
    tiles: pa.Table, *, shape: tuple[int, int], pixel_level0_px: tuple[float, float], origin: tuple[int, int]
) -> NDArray[np.int64]:
    """The pixels of tiles, int64 [N, 4]: x0, y0, x1, y1, ends excluded, cut to the picture."""
    edges = []
    for axis, (start, length) in enumerate((("x", "width"), ("y", "height"))):
        begin = _column(tiles, start) - origin[axis]
        end = begin + _column(tiles, length)
        pixel, count = pixel_level0_px[axis], shape[1 - axis]
        first, last = (np.ceil(edge / pixel - 0.5).astype(np.int64) for edge in (begin, end))
        centre = np.floor((begin + end) / (2 * pixel)).astype(np.int64)
        small = last <= first
        first, last = np.where(small, centre, first), np.where(small, centre + 1, last)
        edges.append((np.clip(first, 0, count), np.clip(last, 0, count)))
    (x0, x1), (y0, y1) = edges
    return np.stack([x0, y0, x1, y1], axis=1)


def _column(tiles: pa.Table, side: str) -> NDArray[np.int64]:
    return np.asarray(tiles[f"{side}_level0_px"].to_numpy(zero_copy_only=False), np.int64)


def _highest_of_four(values: Floats) -> Floats:
    """The highest number of each 2 x 2 pixels; NaN where all four are."""
    height, width = (-(-side // 2) for side in values.shape)
    low = np.float32(-np.inf)
    whole = cv2.copyMakeBorder(
        np.where(np.isnan(values), low, values), 0, 2 * height - values.shape[0], 0, 2 * width - values.shape[1],
        cv2.BORDER_REPLICATE,
    )  # fmt: skip
    pooled = np.maximum(np.maximum(whole[::2, ::2], whole[1::2, ::2]), np.maximum(whole[::2, 1::2], whole[1::2, 1::2]))
    return np.asarray(np.where(pooled == low, np.nan, pooled), np.float32)
