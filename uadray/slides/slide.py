"""The one way to a slide: `open_slide`, then tiles at an exact mpp and a thumbnail.

Coordinates are integer level-0 pixels, origin top left, x then y. Outside the slide, and where it is transparent, it
is white. Label and macro images are never decoded: they show names.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import cv2
import numpy as np
import numpy.typing as npt

from uadray.errors import InputError, SlideError
from uadray.slides.resample import resample
from uadray.storage import objects
from uadray.storage.slide_files import has_many_files

Rgb = npt.NDArray[np.uint8]

Boxes = npt.NDArray[np.int64]
"""[n, 4]: x, y, width and height in pixels of one level."""

DECODED_BYTES = 32 * 2**20
"""Decoded file tiles that a slide keeps: two rows of 85 tiles of 256 px. See `reading_order`."""

UPSAMPLING_LIMIT = 1.1
"""A 0.5 mpp model reads a 0.5032 mpp slide; beyond 10 % the pixels would be made up."""

THUMBNAIL_MPP = 4.0
THUMBNAIL_MAX_PX = 4096
"""Thumbnails are about 4 um a pixel (a 64 px tile at 1 mpp is 16 px there) and never larger than 4096 px a side."""

OVERVIEW_MAX_PX = 2**31
"""Pixels that are read for a thumbnail at the most, 1 to 2 minutes of decoding; more means a slide without pyramid."""


TILE_SOURCE_MAX_PX = 8192
"""Side of what is read for one tile: 200 MB, and a gigabyte while it is resampled. More means a slide without levels,
or tiles of several millimetres."""


class Slide(Protocol):
    """An open slide. What is said of levels runs from the finest level (0) to the coarsest.

    Attributes:
        slide_id: names it in errors and tile ids.
        mpp: micrometres per pixel of level 0.
        level_sizes_px: width and height of each level.
        downsamples: of each level, against level 0: along x and along y, which rounding makes differ.
        tile_sizes_px: width and height of the tiles that the file stores at each level.
        unused_levels: that the file has and that cannot be used, in words.
    """

    slide_id: str
    mpp: float
    level_sizes_px: tuple[tuple[int, int], ...]
    downsamples: tuple[tuple[float, float], ...]
    tile_sizes_px: tuple[tuple[int, int], ...]
    unused_levels: tuple[str, ...]

    def read_region(self, level: int, x: int, y: int, width: int, height: int, out: Rgb | None = None) -> Rgb:
        """RGB [height, width, 3] at `level`, with x and y in pixels of that level; white outside.

        The array is not to be written to, unless it is `out`: of this shape and contiguous, it saves a copy.

        Raises:
            SlideError: `unreadable`: these pixels are damaged, others may be readable. All other reasons are about the
                whole slide: `changed` (replaced while it was read), `unreachable`, `missing`, `no_access`.
        """
        ...

    def missing_share(self, level: int, boxes: Boxes) -> npt.NDArray[np.float64]:
        """[n] Share of each box (0 to 1) that lies on file tiles that are not there, and is read as white."""
        ...

    def will_read(self, level: int, boxes: Boxes) -> None:
        """Announce what `read_region` will be asked for next, in this order and by one thread.

        A slide in S3 is fetched ahead accordingly. Other regions may be read in between; a new announcement replaces
        the one before.
        """
        ...

    def close(self) -> None:
        """Free the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_slide(where: str | Path, *, slide_id: str, mpp: float | None = None, etag: str | None = None) -> Slide:
    """Open a slide, on a disk or in S3.

    Tiled JPEG, LZW, deflate and uncompressed pixels in TIFF, SVS and OME-TIFF are read here, tile by tile and without a
    copy (`tiff.TiffSlide`); what else OpenSlide knows is read by OpenSlide, of an object in S3 from a copy that is held
    until the slide is closed. Which image of a TIFF is the slide, its levels and its pixel size do not depend on that.

    Args:
        where: a local path, `file://` or `s3://`.
        slide_id: names the slide in errors and tile ids.
        mpp: micrometres per pixel of level 0; wins over what the file says.
        etag: the version that is meant (`members.slide_stat`); None takes what is there. It is one version.

    Raises:
        SlideError: `missing`, `changed` (not that version), `no_access`, `unreachable`, `unreadable` (no slide, or
            broken), `too_large`, `several_images` (some would not be read), `colours` (they would be read as others);
            or `no_mpp`: neither the file nor `mpp` gives a pixel size that can be. It is never guessed.
        FullError: the slide cache has no room for the copy.
    """
    from uadray.slides.openslide import OpenSlideSlide
    from uadray.slides.pixel_size import level0_mpp
    from uadray.slides.tiff.byte_source import open_source, slide_error
    from uadray.slides.tiff.slide import TiffSlide, index_of

    uri = str(where)
    path = None if objects.is_s3(uri) else objects.local_path(uri)
    if path is not None and not path.exists():
        raise SlideError(slide_id, "missing", f"no such file: {path}")
    index = None
    if not has_many_files(uri) and (path is None or path.is_file()):
        try:
            source = open_source(uri, etag=etag)
        except (objects.ChangedError, InputError) as error:
            raise slide_error(slide_id, error) from error
        fast = None
        try:
            index = index_of(source, slide_id=slide_id)
            if index is not None and index.decoded:
                found = level0_mpp(index.size, given=mpp, slide_id=slide_id)
                fast = TiffSlide.open(source, index, slide_id=slide_id, mpp=found)
        finally:
            if fast is None:
                source.close()
        if fast is not None:
            return fast
    return OpenSlideSlide.open(uri, slide_id=slide_id, mpp=mpp, etag=etag, index=index)


@dataclass(frozen=True)
class TilePlaces:
    """Where tiles of one mpp lie in the file.

    Attributes:
        level: that they are cut from.
        steps: pixels of the level for one of the tile, along x and y.
        boxes: [n, 4] whole pixels of the level that cover each tile.
        offsets_px: [n, 2] x and y of the tile's corner in its box.
        exact: [n], the box is the tile: no resampling.
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
) -> TilePlaces:
    """Where tiles with these corners lie, at the coarsest level that is not coarser than `mpp`.

    Raises:
        SlideError: `too_coarse`: level 0 is more than 10 % coarser than `mpp`.
    """
    level = finer_level(slide, mpp)
    factors = np.array(slide.downsamples[level])
    steps = mpp / (slide.mpp * factors)
    if tile_px * steps.max() > TILE_SOURCE_MAX_PX:
        raise SlideError(
            slide.slide_id,
            "too_large",
            f"a tile of {tile_px} px at {mpp:g} um/px covers {tile_px * steps[0]:.0f} x {tile_px * steps[1]:.0f} px of "
            f"its level {level}, expected {TILE_SOURCE_MAX_PX:,} a side at most; add pyramid levels, or take smaller "
            f"tiles{_unused(slide)}",
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
    """Write one of the tiles, area-resampled, to `out`: RGB [tile_px, tile_px, 3], contiguous."""
    x, y, width, height = places.boxes[index].tolist()
    if places.exact[index]:
        slide.read_region(places.level, x, y, width, height, out=out)
        return
    source = slide.read_region(places.level, x, y, width, height)
    offset_px = tuple(places.offsets_px[index].tolist())
    out[:] = resample(source, offset_px=offset_px, step_px=places.steps, side_px=len(out))


def read_tile(slide: Slide, *, x_level0_px: int, y_level0_px: int, mpp: float, tile_px: int) -> Rgb:
    """One tile at exactly `mpp`, area-resampled from the next finer level.

    Returns:
        RGB [tile_px, tile_px, 3].

    Raises:
        SlideError: as `Slide.read_region`; or `too_coarse`: level 0 is more than 10 % coarser than `mpp`.
    """
    places = tile_places(slide, [x_level0_px], [y_level0_px], mpp=mpp, tile_px=tile_px)
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
) -> npt.NDArray[np.int64]:
    """An order of tiles in which each file tile is decoded about once.

    Tiles of a grid share file tiles with their neighbours to the right and below. Row by row across a whole slide, the
    row above has long left the `DECODED_BYTES` that a slide keeps decoded; so tiles go row by row in strips, as wide
    as all the rows of file tiles that a row of tiles touches have room for, and a row more.

    Args:
        slide: the slide.
        x_level0_px: [n], left edges.
        y_level0_px: [n], upper edges.
        mpp: of the tiles.
        tile_px: of the tiles.

    Returns:
        [n] indices: `tiles.take(order)` is the table to read.
    """
    level = finer_level(slide, mpp)
    width, height = slide.tile_sizes_px[level]
    factor_x, factor_y = slide.downsamples[level]
    rows = int(np.ceil(tile_px * mpp / (slide.mpp * factor_y) / height)) + 2
    columns = max(1, DECODED_BYTES // (rows * 3 * width * height))
    strip = x_level0_px // max(1, round(columns * width * factor_x))
    return np.lexsort((x_level0_px, y_level0_px, strip))


def finer_level(slide: Slide, mpp: float) -> int:
    """The coarsest level that is not coarser than `mpp`, along x or y.

    Raises:
        SlideError: reason `too_coarse`.
    """
    if slide.mpp > mpp * UPSAMPLING_LIMIT:
        raise SlideError(
            slide.slide_id, "too_coarse", f"level 0 has {slide.mpp:g} um/px, tiles were asked for at {mpp:g} um/px"
        )
    fitting = [i for i, factors in enumerate(slide.downsamples) if slide.mpp * max(factors) <= mpp * (1 + 1e-3)]
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
    level = [i for i, factors in enumerate(slide.downsamples) if max(factors) <= factor * (1 + 1e-3)][-1]
    width, height = slide.level_sizes_px[level]
    if width * height > OVERVIEW_MAX_PX:
        raise SlideError(
            slide.slide_id,
            "no_overview",
            f"its coarsest usable level is {width} x {height} px; add pyramid levels{_unused(slide)}",
        )
    size = (max(1, round(width0 / factor)), max(1, round(height0 / factor)))
    return _shrink(slide, level, size), slide.mpp * width0 / size[0]


def _unused(slide: Slide) -> str:
    """For errors about levels that are missing: those that are there, and cannot be used."""
    if not slide.unused_levels:
        return ""
    return f" (not usable: {', '.join(slide.unused_levels[:8])}: in parts missing, not marked, or not OpenSlide's)"


def _shrink(slide: Slide, level: int, size: tuple[int, int]) -> Rgb:
    width, height = slide.level_sizes_px[level]
    out_width, out_height = size
    rows_at_once = max(1, int(2**24 / max(width, 1) * out_height / height))  # strips of about 16 million pixels
    rows = [*range(0, out_height, rows_at_once), out_height]
    edges = [round(row * height / out_height) for row in rows]
    boxes = [(0, top, width, max(1, bottom - top)) for top, bottom in itertools.pairwise(edges)]
    slide.will_read(level, np.array(boxes, np.int64))
    strips = []
    for box, (first, last) in zip(boxes, itertools.pairwise(rows), strict=True):
        strip, strip_size = slide.read_region(level, *box), (out_width, last - first)
        is_small = (box[2], box[3]) == strip_size  # OpenCV takes its time over nothing, too
        strips.append(strip if is_small else cv2.resize(strip, strip_size, interpolation=cv2.INTER_AREA))
    return np.concatenate(strips)
