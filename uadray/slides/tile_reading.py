"""Tiles at an exact mpp: where they lie in the file, in which order they are read fastest, and their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.errors import SlideError
from uadray.slides.resample import resample
from uadray.slides.slide import DECODED_BYTES, Boxes, Rgb, Slide, unusable_levels
from uadray.stage_seconds import timed

UPSAMPLING_LIMIT = 1.1
"""How much coarser than the tile level 0 may be: a model of 0.5 mpp reads a slide of 0.5032 mpp. Beyond 10 % the detail
that a model expects is not in the slide."""

TILE_SOURCE_MAX_PX = 8192
"""Greatest side of what is read for one tile: 200 MB, and a gigabyte while it is resampled. Only a slide without
levels, or tiles of several millimetres, would need more."""


@dataclass(frozen=True)
class TilePlaces:
    """Where tiles of one mpp lie in the file.

    Attributes:
        level: the level that they are cut from.
        steps: pixels of the level for one of the tile, along x and y.
        boxes: [n, 4] whole pixels of the level that cover each tile.
        offsets_px: [n, 2] x and y of the tile's corner in its box.
        exact: [n], whether the box is the tile, without resampling.
    """

    level: int
    steps: tuple[float, float]
    boxes: Boxes
    offsets_px: npt.NDArray[np.float64]
    exact: npt.NDArray[np.bool_]


def tile_places(
    slide: Slide,
    x_level0_px: Sequence[int] | npt.NDArray[np.int64],
    y_level0_px: Sequence[int] | npt.NDArray[np.int64],
    *,
    mpp: float,
    tile_px: int,
    max_coarser: float = 0.0,
) -> TilePlaces:
    """Where tiles with these corners lie, at the level of `finer_level`.

    Raises:
        SlideError: `too_coarse`: level 0 is more than 10 % coarser than `mpp`.
    """
    level = finer_level(slide, mpp, max_coarser)
    factors = np.array(slide.downsamples[level])
    steps = mpp / (slide.mpp * factors)
    if tile_px * steps.max() > TILE_SOURCE_MAX_PX:
        raise SlideError(
            slide.slide_id,
            "too_large",
            f"a tile of {tile_px} px at {mpp:g} um/px covers {tile_px * steps[0]:.0f} x {tile_px * steps[1]:.0f} px of "
            f"its level {level}, expected {TILE_SOURCE_MAX_PX:,} a side at most; add pyramid levels, or take smaller "
            f"tiles{unusable_levels(slide)}",
        )
    pads = np.where(steps >= 1, 0, 1)  # bilinear reads half a pixel beyond the edge
    corners = np.array([x_level0_px, y_level0_px], np.float64).T / factors
    starts = np.floor(corners + 1e-6) - pads
    offsets = corners - starts
    sides = np.ceil(tile_px * steps + np.maximum(offsets, 0) - 1e-6) + pads
    boxes = np.column_stack([starts, sides]).astype(np.int64)
    unscaled = bool((np.round(steps, 9) == 1).all())
    exact = unscaled & (sides == tile_px).all(axis=1) & (np.round(offsets, 6) == 0).all(axis=1)
    return TilePlaces(level, (float(steps[0]), float(steps[1])), boxes, offsets, exact)


def read_place(slide: Slide, places: TilePlaces, index: int, out: Rgb) -> None:
    """Write the pixels of one of the tiles, area-resampled, to `out`: RGB [tile_px, tile_px, 3], contiguous."""
    x, y, width, height = places.boxes[index].tolist()
    if places.exact[index]:
        slide.read_region(places.level, x, y, width, height, out=out)
        return
    source = slide.read_region(places.level, x, y, width, height)
    offset_px = tuple(places.offsets_px[index].tolist())
    with timed("resample"):
        resample(source, offset_px=offset_px, step_px=places.steps, side_px=len(out), out=out)


def read_tile(
    slide: Slide, *, x_level0_px: int, y_level0_px: int, mpp: float, tile_px: int, max_coarser: float = 0.0
) -> Rgb:
    """One tile at exactly `mpp`, area-resampled from the level of `finer_level`.

    Returns:
        RGB [tile_px, tile_px, 3].

    Raises:
        SlideError: as `Slide.read_region`; or `too_coarse`: level 0 is more than 10 % coarser than `mpp`.
    """
    places = tile_places(slide, [x_level0_px], [y_level0_px], mpp=mpp, tile_px=tile_px, max_coarser=max_coarser)
    out = np.empty((tile_px, tile_px, 3), np.uint8)
    read_place(slide, places, 0, out)
    return out


def reading_order(
    slide: Slide,
    x_level0_px: npt.NDArray[np.int64],
    y_level0_px: npt.NDArray[np.int64],
    *,
    mpp: float,
    tile_px: int,
    max_coarser: float = 0.0,
) -> npt.NDArray[np.int64]:
    """An order of tiles in which each file tile is decoded about once.

    Tiles of a grid share file tiles with their neighbours to the right and below. If tiles were read row by row across
    a whole slide, the file tiles of one row would be dropped from the `DECODED_BYTES` that a slide keeps decoded before
    the next row needs them. So the slide is divided into vertical strips, and tiles are read row by row within a strip.
    A strip is so wide that all file tiles that one row of tiles touches in it can be kept, and one row more.

    Args:
        slide: the slide.
        x_level0_px: [n], left edges.
        y_level0_px: [n], upper edges.
        mpp: of the tiles.
        tile_px: of the tiles.
        max_coarser: see `finer_level`.

    Returns:
        [n] indices: `tiles.take(order)` is the table to read.
    """
    level = finer_level(slide, mpp, max_coarser)
    width, height = slide.tile_sizes_px[level]
    factor_x, factor_y = slide.downsamples[level]
    rows = int(np.ceil(tile_px * mpp / (slide.mpp * factor_y) / height)) + 2
    columns = max(1, DECODED_BYTES // (rows * 3 * width * height))
    strip = x_level0_px // max(1, round(columns * width * factor_x))
    return np.lexsort((x_level0_px, y_level0_px, strip))


def finer_level(slide: Slide, mpp: float, max_coarser: float = 0.0) -> int:
    """The coarsest level that is not coarser than `mpp` by more than the fraction `max_coarser`, along x or y.

    Tiles are interpolated from a level that is coarser.

    Raises:
        SlideError: reason `too_coarse`.
    """
    if slide.mpp > mpp * UPSAMPLING_LIMIT:
        raise SlideError(
            slide.slide_id, "too_coarse", f"level 0 has {slide.mpp:g} um/px, tiles were asked for at {mpp:g} um/px"
        )
    most = mpp * (1 + max(max_coarser, 1e-3))
    fine_enough = [i for i, factors in enumerate(slide.downsamples) if slide.mpp * max(factors) <= most]
    return fine_enough[-1] if fine_enough else 0
