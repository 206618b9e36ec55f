"""One slide -> its plan (metadata) -> chunks of tiles (pixels). Plain Python; Ray only carries it."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray import storage
from uadray.errors import SlideError
from uadray.manifest import SlideRow
from uadray.slides.reader import Slide, finer_level, read_tile, thumbnail
from uadray.tiling import TileSpec, grid, keep_tissue
from uadray.tissue import tissue_mask

CHUNK_BYTES = 4 * 2**20
"""Pixels of a chunk: 151 tiles of 96 px. One tile at a time is 6.5 times slower through Ray Data; much larger blocks
delay the first score."""

PREVIEW_PX = 640
"""Longest side of the thumbnail that a slide's page shows."""


@dataclass(frozen=True)
class SlidePlan:
    """What is known of a slide before a tile is read.

    Attributes:
        slide_id: of the manifest.
        etag: the version of the slide's file that was read.
        mpp_level0: micrometres per pixel of level 0.
        size_level0_px: width and height.
        tiles: the tiles to read, schema `TILES`.
        n_grid: tiles of the whole grid, glass included.
        preview: RGB [h, w, 3], at most `PREVIEW_PX` a side.
    """

    slide_id: str
    etag: str
    mpp_level0: float
    size_level0_px: tuple[int, int]
    tiles: pa.Table
    n_grid: int
    preview: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TileChunk:
    """Consecutive tiles of a slide.

    Attributes:
        tiles: [n] rows of schema `TILES`.
        pixels: RGB [n, tile, tile, 3]; white where `errors` is not None.
        errors: [n], what went wrong with a tile.
    """

    tiles: pa.Table
    pixels: npt.NDArray[np.uint8]
    errors: list[str | None]


def slide_etag(row: SlideRow) -> str:
    """The version of a slide's file, as storage gives it.

    Raises:
        SlideError: reason `missing`.
    """
    try:
        return storage.stat(row.uri).etag
    except storage.NotFoundError as error:
        raise SlideError(row.slide_id, "missing", str(error)) from error


def plan_slide(slide: Slide, *, etag: str, spec: TileSpec) -> SlidePlan:
    """Thumbnail, tissue, grid.

    Raises:
        SlideError: `unreadable`, `too_coarse`, `too_large`, `no_overview`.
    """
    finer_level(slide, spec.mpp)
    image, mpp = thumbnail(slide)
    tiles = grid(slide.slide_id, slide.level_sizes_px[0], slide.mpp, tissue_mask(image, mpp), spec)
    factor = min(1.0, PREVIEW_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return SlidePlan(
        slide_id=slide.slide_id,
        etag=etag,
        mpp_level0=slide.mpp,
        size_level0_px=slide.level_sizes_px[0],
        tiles=keep_tissue(tiles, spec),
        n_grid=len(tiles),
        preview=np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8),
    )


def chunk_tiles(spec: TileSpec) -> int:
    """Tiles of a chunk: never fewer than 64."""
    return max(64, CHUNK_BYTES // (3 * spec.tile_px**2))


def read_chunks(slide: Slide, tiles: pa.Table, *, spec: TileSpec) -> Iterator[TileChunk]:
    """Read `tiles` in order; a tile that cannot be read carries its error, the others are read all the same."""
    step = chunk_tiles(spec)
    for start in range(0, len(tiles), step):
        yield read_chunk(slide, tiles.slice(start, step), spec=spec)


def read_chunk(slide: Slide, tiles: pa.Table, *, spec: TileSpec) -> TileChunk:
    """Read all of `tiles` into one chunk."""
    pixels = np.full((len(tiles), spec.tile_px, spec.tile_px, 3), 255, np.uint8)
    errors: list[str | None] = [None] * len(tiles)
    corners = zip(tiles["x_level0_px"].to_pylist(), tiles["y_level0_px"].to_pylist(), strict=True)
    for i, (x, y) in enumerate(corners):
        try:
            pixels[i] = read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=spec.mpp, tile_px=spec.tile_px)
        except SlideError as error:
            errors[i] = error.message
    return TileChunk(tiles, pixels, errors)
