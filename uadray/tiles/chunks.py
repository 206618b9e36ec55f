"""Planned tiles -> their pixels, a chunk at a time.

A chunk is some consecutive tiles of one slide, in the order of the slide's plan: as many as are worth handing from one
process to another together. A tile that cannot be read carries its error; the other tiles of the chunk are still read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.errors import SlideError
from uadray.slides.slide import Slide
from uadray.slides.tile_reading import TilePlaces, read_place, tile_places
from uadray.stage_seconds import timed
from uadray.tiles.quality import judged_pixels
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain
from uadray.tiles.stain_normalize import Normalizer, normalizer

CHUNK_TILES, CHUNK_BYTES = 256, 48 * 2**20
"""A chunk has 256 tiles, or fewer where 256 would be more than this many bytes of pixels. Ray Data spends a fixed time
on each block that it carries: with chunks of 64 tiles of 256 px the driver and the scorer took 0.43 ms of CPU a tile,
with 256 tiles 0.25 ms. Much larger chunks delay the first score and take more memory."""

MISSING_TISSUE = 0.2
"""A tile is an error where more than this share of it is tissue by the overview and has no pixels in the file at the
level that is read. A smaller share is accepted: scanners leave out glass, and the overview is not exact to the
pixel."""


@dataclass(frozen=True)
class TileChunk:
    """The pixels of one chunk.

    Attributes:
        tiles: [n] rows of schema `TILES`.
        pixels: RGB [n, tile, tile, 3]; white where `errors` is not None.
        errors: [n], why a tile cannot be read; None where it could be.
        flags: [n], what the pixels show of bad quality; None where they are good or were not judged.
        focus: [n], see `quality.judged_pixels`; NaN where nothing can be said, or pixels were not judged.
    """

    tiles: pa.Table
    pixels: npt.NDArray[np.uint8]
    errors: list[str | None]
    flags: list[str | None]
    focus: npt.NDArray[np.float64]


def chunk_tiles(spec: TileSpec) -> int:
    """How many tiles a chunk has: 256, fewer of larger tiles, at least one.

    >>> [chunk_tiles(TileSpec(mpp=0.5, tile_px=side)) for side in (96, 256, 512, 1024, 4096)]
    [256, 256, 64, 16, 1]
    """
    return max(1, min(CHUNK_TILES, CHUNK_BYTES // (3 * spec.tile_px**2)))


def normalizer_of(stain: Stain | None, spec: TileSpec) -> Normalizer | None:
    """What brings a slide with this stain to the reference of `spec`; None where colours are left as they are."""
    if stain is None or spec.stain is None or spec.stain.reference is None:
        return None
    return normalizer(stain, spec.stain.reference, residual=spec.stain.residual)


def read_chunks(
    slide: Slide, tiles: pa.Table, *, spec: TileSpec, normalise: Normalizer | None = None
) -> Iterator[TileChunk]:
    """Read tiles of a slide, chunk after chunk; of a slide in S3 the next chunks are fetched meanwhile.

    The order of `tiles` is kept; fastest is the order of a plan (`reading_order`). Tissue that is not in the file is an
    error of the tile, glass that is not in the file is white.

    Raises:
        SlideError: the whole slide cannot be read: it is `changed`, `unreachable`, `too_coarse`, ...
    """
    if len(tiles):
        places = places_of(slide, tiles, spec)
        slide.will_read(places.level, places.boxes)
    step = chunk_tiles(spec)
    for start in range(0, len(tiles), step):
        yield read_chunk(slide, tiles.slice(start, step), spec=spec, normalise=normalise)


def read_chunk(slide: Slide, tiles: pa.Table, *, spec: TileSpec, normalise: Normalizer | None = None) -> TileChunk:
    """Read all of `tiles` into one chunk. Quality is judged before colours are changed.

    Raises:
        SlideError: as `read_chunks`.
    """
    pixels = np.empty((len(tiles), spec.tile_px, spec.tile_px, 3), np.uint8)
    errors: list[str | None] = [None] * len(tiles)
    flags: list[str | None] = [None] * len(tiles)
    focus = np.full(len(tiles), np.nan)
    places = places_of(slide, tiles, spec)
    missing = _missing_tissue(slide, tiles, places, spec)
    for i in range(len(tiles)):
        errors[i] = _read_tile(slide, places, i, pixels[i], missing=missing[i])
    if spec.quality is not None:
        with timed("quality"):
            shown, focus = judged_pixels(pixels, spec.mpp, spec.quality)
        flags = [None if error else flag for error, flag in zip(errors, shown, strict=True)]
    if normalise is not None:
        with timed("stain"):
            pixels = normalise(pixels)
    return TileChunk(tiles, pixels, errors, flags, focus)


def _read_tile(slide: Slide, places: TilePlaces, i: int, out: npt.NDArray[np.uint8], *, missing: float) -> str | None:
    """Read tile `i` into `out`; where it cannot be read, make `out` white and return why."""
    try:
        read_place(slide, places, i, out)
        if missing > MISSING_TISSUE:
            raise SlideError(slide.slide_id, "unreadable", "the overview shows tissue, and the file no pixels")
    except SlideError as error:
        if error.reason != "unreadable":
            raise
        out[:] = 255
        return error.message
    return None


def _missing_tissue(slide: Slide, tiles: pa.Table, places: TilePlaces, spec: TileSpec) -> npt.NDArray[np.float64]:
    """[n] Share of each tile that must be tissue by the overview, and has no pixels in the file; may be below 0."""
    tissue = tiles["tissue_fraction"].to_numpy() if "tissue_fraction" in tiles.column_names else spec.min_tissue
    return np.asarray(slide.missing_share(places.level, places.boxes) + tissue - 1)


def places_of(slide: Slide, tiles: pa.Table, spec: TileSpec) -> TilePlaces:
    """Where the tiles of a table of schema `TILES` lie in the file."""
    corners = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    return tile_places(slide, *corners, mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser)
