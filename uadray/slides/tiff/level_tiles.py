"""Pages that are levels -> where each file tile of each level lies in the file.

Nothing that a page claims is believed: a level of 10^9 tiles, tiles beyond the end of the file or arrays of another
length than the image needs are refused before anything of the claimed size is allocated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uadray.slides.tiff import tags
from uadray.slides.tiff.header import BadTiffError, TiffHeader, TiffLimitError
from uadray.slides.tiff.pages import TAGS_OF_LEVEL, PageFacts

MAX_FILE_TILES = 4_000_000
"""Of a level: a slide of 500,000 x 500,000 px in tiles of 256 px."""

MAX_TILE_PX, MAX_TILE_AREA_PX = 65_535, 80_000_000
"""Side of a file tile, which is the limit of JPEG, and its area: 240 MB decoded. Scanners write sides of 240 to
1024."""

MAX_TABLE_BYTES = 2**16
"""Of the JPEG tables that the tiles of a level share."""


@dataclass(frozen=True)
class TiffLevel:
    """A level's tiles in the file.

    Attributes:
        size_px: width and height of the level.
        tile_px: width and height of a file tile.
        columns: file tiles in a row.
        compression: tag 259.
        predictor: tag 317, of lossless tiles.
        rgb: the tag says that components are red, green, blue; otherwise YCbCr.
        tables: JPEG stream with the tables that the tiles share; may be empty.
        offsets: of each tile in the file, row by row.
        lengths: in bytes; 0 for a tile that is not in the file.
        page: number of its directory in the file, counted from 1.
        unproven: the file does not mark it as a smaller copy of the slide, so its pixels have yet to be compared.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    columns: int
    compression: int
    predictor: int
    rgb: bool
    tables: bytes
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    page: int
    unproven: bool

    @property
    def name(self) -> str:
        """What people call it, for errors."""
        return f"page {self.page} ({self.size_px[0]} x {self.size_px[1]} px)"


class _Layout(NamedTuple):
    """How a page is divided into file tiles."""

    tile_px: tuple[int, int]
    columns: int
    rows: int


def read_levels(
    file: TiffHeader, pages: Sequence[PageFacts], unproven: set[int], *, decoded: bool
) -> tuple[TiffLevel, ...]:
    """The levels that these pages are; the arrays of all of them are read in one round trip.

    Args:
        file: the file.
        pages: from the finest to the coarsest.
        unproven: numbers of pages that the file does not mark as smaller copies.
        decoded: `TiffSlide` decodes the tiles, so that their places and sizes are checked too.

    Raises:
        BadTiffError: numbers of a level do not agree with each other, or with the length of the file.
        TiffLimitError: a level is larger than what is read here.
    """
    layouts = [_layout(file, page, decoded=decoded) for page in pages]
    if sum(layout.columns * layout.rows for layout in layouts) > 2 * MAX_FILE_TILES:
        raise TiffLimitError(f"its levels have more than {2 * MAX_FILE_TILES:,} tiles together")
    file.fetch([page.tags[code] for page in pages for code in TAGS_OF_LEVEL if code in page.tags], limit=2**62)
    levels = []
    for page, layout in zip(pages, layouts, strict=True):
        n_tiles = layout.columns * layout.rows
        levels.append(
            TiffLevel(
                size_px=page.size,
                tile_px=layout.tile_px,
                columns=layout.columns,
                compression=file.integer(page.tags, tags.COMPRESSION, 1),
                predictor=file.integer(page.tags, tags.PREDICTOR, 1),
                rgb=file.integer(page.tags, tags.PHOTOMETRIC, 0) == tags.RGB,
                tables=file.raw(page.tags, tags.JPEG_TABLES),
                offsets=file.array(page.tags[tags.TILE_OFFSETS])[:n_tiles],
                lengths=file.array(page.tags[tags.TILE_BYTE_COUNTS])[:n_tiles],
                page=page.number,
                unproven=page.number in unproven,
            )
        )
        if decoded:
            _check_spans(levels[-1], file.size)
    return tuple(levels)


def _layout(file: TiffHeader, page: PageFacts, *, decoded: bool) -> _Layout:
    """The division of a page into file tiles, once all numbers that it claims have been checked."""
    size, tile = page.size, (file.integer(page.tags, tags.TILE_WIDTH), file.integer(page.tags, tags.TILE_LENGTH))
    if min(size) < 1 or min(tile) < 1 or max(tile) > MAX_TILE_PX:
        raise BadTiffError(f"a level of {size[0]} x {size[1]} px in tiles of {tile[0]} x {tile[1]} px cannot be")
    if decoded and tile[0] * tile[1] > MAX_TILE_AREA_PX:
        raise TiffLimitError(
            f"its tiles are {tile[0]} x {tile[1]} px, and those of up to {MAX_TILE_AREA_PX:,} px are decoded; "
            "save it with smaller ones, of 256 or 512 px"
        )
    columns, rows = -(-size[0] // tile[0]), -(-size[1] // tile[1])
    is_interleaved = file.integer(page.tags, tags.PLANAR_CONFIGURATION, tags.INTERLEAVED) == tags.INTERLEAVED
    planes = 1 if is_interleaved else file.integer(page.tags, tags.SAMPLES_PER_PIXEL, 1)
    arrays = (tags.TILE_OFFSETS, tags.TILE_BYTE_COUNTS)
    listed = [page.tags[code].count if code in page.tags else 0 for code in arrays]
    if {columns * rows * planes} != set(listed):
        raise BadTiffError(f"a level of {columns} x {rows} tiles lists {listed[0]:,} offsets and {listed[1]:,} lengths")
    for code in arrays:
        file.check_inside(page.tags[code].at, page.tags[code].length)
    if columns * rows * planes > MAX_FILE_TILES:
        raise TiffLimitError(f"a level has {columns * rows:,} tiles; {MAX_FILE_TILES:,} are read at most")
    if tags.JPEG_TABLES in page.tags and page.tags[tags.JPEG_TABLES].length > MAX_TABLE_BYTES:
        raise TiffLimitError("its JPEG tables are longer than 64 KiB")
    return _Layout(tile, columns, rows)


def _check_spans(level: TiffLevel, file_bytes: int) -> None:
    """Refuse a level with a tile that lies beyond the end of the file, or that is longer than any tile can be."""
    longest = 2 * 3 * level.tile_px[0] * level.tile_px[1] + 2**16  # JPEG of noise at quality 100 is no longer
    there = level.lengths != 0
    stops = level.offsets[there] + level.lengths[there]
    if (level.offsets[there] < 0).any() or (level.lengths < 0).any() or (stops > file_bytes).any() or (stops < 0).any():
        raise BadTiffError(
            f"a level of {level.size_px[0]} x {level.size_px[1]} px has tiles beyond the end of the file "
            f"({file_bytes:,} bytes); was it copied whole?"
        )
    if level.lengths.max(initial=0) > longest:
        raise TiffLimitError(f"a tile has {level.lengths.max():,} bytes; {longest:,} are read at most")


def without_gaps(levels: Sequence[TiffLevel]) -> tuple[TiffLevel, ...]:
    """The levels that lack no tile which a finer level has. What the finest level lacks is glass, not scanned."""
    kept = [levels[0]]
    kept += [level for level in levels[1:] if not _lacks(level, kept[-1])]
    return tuple(kept)


def _lacks(level: TiffLevel, finer: TiffLevel) -> bool:
    """Whether a level lacks a tile at a place where `finer` has tiles."""
    absent = np.flatnonzero(level.lengths == 0)
    if not len(absent):
        return False
    there = (finer.lengths != 0).reshape(-1, finer.columns)
    sums = np.zeros((there.shape[0] + 1, there.shape[1] + 1), np.int64)
    sums[1:, 1:] = there.cumsum(0).cumsum(1)
    ranges = []
    for axis, number in enumerate(divmod(absent, level.columns)[::-1]):
        scale = finer.size_px[axis] / level.size_px[axis] / finer.tile_px[axis]  # file tiles of `finer` a pixel
        first, stop = number * level.tile_px[axis], np.minimum((number + 1) * level.tile_px[axis], level.size_px[axis])
        low = np.floor((first + 1) * scale).astype(np.int64)  # one pixel less on each side: sizes of levels are rounded
        high = np.clip(np.ceil((stop - 1) * scale).astype(np.int64), low, there.shape[1 - axis])
        ranges.append((np.minimum(low, high), high))
    (x0, x1), (y0, y1) = ranges
    return bool((sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] > 0).any())
