"""One slide -> its plan (metadata) -> chunks of tiles (pixels). Plain Python; Ray only carries it."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.errors import InputError, NotFoundError, SlideError
from uadray.slides.manifest import SlideRow
from uadray.slides.slide import Slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import TilePlaces, finer_level, read_place, reading_order, tile_places
from uadray.storage import objects
from uadray.storage.slide_files import slide_stat
from uadray.tiles import mask_folder, mask_geojson
from uadray.tiles.quality import Flag, QualityConfig, SlideQuality, pixel_flags, slide_quality, tile_flags
from uadray.tiles.spec import TileSpec, grid, n_grid
from uadray.tiles.stain import Normalizer, Stain, StainError, fit, normalizer
from uadray.tiles.tissue import shrink, tissue_mask

CHUNK_TILES, CHUNK_BYTES = 256, 48 * 2**20
"""A chunk has 256 tiles, fewer where those are more than so many bytes of pixels. Ray Data
spends much on a block, whatever is in it: with 64 tiles of 256 px driver and scorer took 0.43 ms of CPU a tile, with
256 0.25; much larger blocks delay the first score and take memory."""

LOOKED_AT_ONCE = 16
"""Tiles whose quality is looked at together, before their pixels have left the processor's cache."""

MISSING_TISSUE = 0.2
"""Share of a tile that must be tissue by the overview, and not be in the file at the level that is read, to be an
error: scanners leave out the tiles of glass, and the overview is not exact to the pixel."""

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
        tiles: the tiles to read, schema `TILES`, in the order to read them in.
        flagged: the tiles with enough tissue that the thumbnail flags, schema `TILES`; they are not read.
        flags: of each of these.
        n_grid: tiles of the whole grid, glass included.
        preview: RGB [h, w, 3], at most `PREVIEW_PX` a side.
        masks: tissue and flagged regions as GeoJSON, for people to mend.
        stain: the slide's own, where its colours are normalised.
    """

    slide_id: str
    etag: str
    mpp_level0: float
    size_level0_px: tuple[int, int]
    tiles: pa.Table
    flagged: pa.Table
    flags: list[str]
    n_grid: int
    preview: npt.NDArray[np.uint8]
    masks: bytes
    stain: Stain | None


@dataclass(frozen=True)
class TileChunk:
    """Consecutive tiles of a slide.

    Attributes:
        tiles: [n] rows of schema `TILES`.
        pixels: RGB [n, tile, tile, 3]; white where `errors` is not None.
        errors: [n], what went wrong with a tile.
        flags: [n], what its pixels show of bad quality; None where it is good or was not looked at.
    """

    tiles: pa.Table
    pixels: npt.NDArray[np.uint8]
    errors: list[str | None]
    flags: list[str | None]


def slide_etag(row: SlideRow) -> str:
    """The version of a slide's file, as storage gives it; of all its files where it has many.

    Raises:
        SlideError: reason `missing`.
    """
    try:
        return slide_stat(row.uri).etag
    except NotFoundError as error:
        raise SlideError(row.slide_id, "missing", str(error)) from error


def plan_slide(slide: Slide, *, etag: str, spec: TileSpec) -> SlidePlan:
    """Thumbnail, tissue, quality, stain, grid.

    Raises:
        SlideError: `unreadable`, `too_coarse`, `too_large`, `no_overview`; `bad_mask`; or `no_stain`: its stains cannot
            be told, and left as they are its colours would look abnormal.
    """
    finer_level(slide, spec.mpp)
    image, mpp = thumbnail(slide)
    size = slide.level_sizes_px[0]
    tissue = _tissue(slide, image, mpp, spec)
    tiles = grid(slide.slide_id, size, slide.mpp, tissue, spec)
    layers = {"Tissue": tissue}
    flags: list[Flag | None] = [None] * len(tiles)
    if spec.quality is not None:
        found = slide_quality(image, mpp, tissue, spec.quality)
        layers |= {flag.capitalize(): mask for flag, mask in found.masks.items()}
        flags = _flags(found, tiles, size, spec.quality)
    is_good = np.array([flag is None for flag in flags], dtype=np.bool_)
    good = tiles.filter(pa.array(is_good))
    x, y = (good[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    return SlidePlan(
        slide_id=slide.slide_id,
        etag=etag,
        mpp_level0=slide.mpp,
        size_level0_px=size,
        tiles=good.take(reading_order(slide, x, y, mpp=spec.mpp, tile_px=spec.tile_px)),
        flagged=tiles.filter(pa.array(~is_good)),
        flags=[flag for flag in flags if flag is not None],
        n_grid=n_grid(slide.slide_id, size, slide.mpp, spec),
        preview=_preview(image),
        masks=mask_geojson.write_masks(layers, size),
        stain=_stain(slide, image, tissue, spec) if len(good) else None,
    )


def normalizer_of(stain: Stain | None, spec: TileSpec) -> Normalizer | None:
    """What brings a slide with this stain to the reference of `spec`; None where there is nothing to do."""
    if stain is None or spec.stain is None or spec.stain.reference is None:
        return None
    return normalizer(stain, spec.stain.reference, residual=spec.stain.residual)


def mask_uri(slide_id: str, spec: TileSpec) -> str | None:
    """Where a slide's edited mask would be."""
    return mask_folder.mask_uri(spec.mask_dir, slide_id) if spec.mask_dir else None


def _tissue(slide: Slide, image: npt.NDArray[np.uint8], mpp: float, spec: TileSpec) -> npt.NDArray[np.bool_]:
    """The edited mask where there is one, else what is found; where a mask only cuts out, found without that."""
    uri = mask_uri(slide.slide_id, spec)
    if uri is None or not objects.exists(uri):
        return tissue_mask(image, mpp)
    shape = (image.shape[0], image.shape[1])
    try:
        data = objects.read_bytes(uri, max_bytes=mask_geojson.MAX_BYTES)
    except InputError as error:
        raise SlideError(slide.slide_id, "bad_mask", str(error)) from error
    found = tissue_mask(image, mpp)
    return mask_geojson.read_mask(data, slide.slide_id, slide.level_sizes_px[0], shape, source=uri, found=found)


def _flags(found: SlideQuality, tiles: pa.Table, size: tuple[int, int], config: QualityConfig) -> list[Flag | None]:
    x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    side = int(tiles["width_level0_px"][0].as_py()) if len(tiles) else 1
    return tile_flags(found, x, y, side_level0_px=side, size_level0_px=size, config=config)


def _stain(slide: Slide, image: npt.NDArray[np.uint8], tissue: npt.NDArray[np.bool_], spec: TileSpec) -> Stain | None:
    if spec.stain is None:
        return None
    try:
        return fit(image, spec.stain, mask=tissue)
    except StainError as error:
        raise SlideError(slide.slide_id, "no_stain", f"its colours cannot be normalised: {error.message}") from error


def _preview(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    factor = min(1.0, PREVIEW_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    small = shrink(image, max(1, int(1 / factor)))  # by a whole number first: many times as fast
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def chunk_tiles(spec: TileSpec) -> int:
    """Tiles of a chunk: 256, fewer of larger tiles, at least one.

    >>> [chunk_tiles(TileSpec(mpp=0.5, tile_px=side)) for side in (96, 256, 512, 1024, 4096)]
    [256, 256, 64, 16, 1]
    """
    return max(1, min(CHUNK_TILES, CHUNK_BYTES // (3 * spec.tile_px**2)))


def read_chunks(
    slide: Slide, tiles: pa.Table, *, spec: TileSpec, normalise: Normalizer | None = None
) -> Iterator[TileChunk]:
    """Read `tiles` in order, which is `reading_order` at best; of a slide in S3 the next chunks are fetched meanwhile.

    A tile that cannot be read carries its error, the others are read all the same. Tissue that is not in the file is
    such an error, glass that is not is white.

    Raises:
        SlideError: it is not one tile that cannot be read: the slide is `changed`, `unreachable`, `too_coarse`, ...
    """
    if len(tiles):
        places = _places(slide, tiles, spec)
        slide.will_read(places.level, places.boxes)
    step = chunk_tiles(spec)
    for start in range(0, len(tiles), step):
        yield read_chunk(slide, tiles.slice(start, step), spec=spec, normalise=normalise)


def read_chunk(slide: Slide, tiles: pa.Table, *, spec: TileSpec, normalise: Normalizer | None = None) -> TileChunk:
    """Read all of `tiles` into one chunk; quality is looked at before colours are changed. Errors: `read_chunks`."""
    pixels = np.empty((len(tiles), spec.tile_px, spec.tile_px, 3), np.uint8)
    errors: list[str | None] = [None] * len(tiles)
    flags: list[str | None] = [None] * len(tiles)
    places = _places(slide, tiles, spec)
    tissue = tiles["tissue_fraction"].to_numpy() if "tissue_fraction" in tiles.column_names else spec.min_tissue
    missing = slide.missing_share(places.level, places.boxes) + tissue - 1  # of the tissue, in shares of the tile
    for start in range(0, len(tiles), LOOKED_AT_ONCE):
        some = range(start, min(start + LOOKED_AT_ONCE, len(tiles)))
        for i in some:
            try:
                read_place(slide, places, i, pixels[i])
                if missing[i] > MISSING_TISSUE:
                    raise SlideError(slide.slide_id, "unreadable", "the overview shows tissue, and the file no pixels")
            except SlideError as error:
                if error.reason != "unreadable":
                    raise
                pixels[i], errors[i] = 255, error.message
        if spec.quality is not None:
            found = pixel_flags(pixels[start : some.stop], spec.mpp, spec.quality)
            flags[start : some.stop] = [None if errors[i] else flag for i, flag in zip(some, found, strict=True)]
    return TileChunk(tiles, pixels if normalise is None else normalise(pixels), errors, flags)


def _places(slide: Slide, tiles: pa.Table, spec: TileSpec) -> TilePlaces:
    corners = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    return tile_places(slide, *corners, mpp=spec.mpp, tile_px=spec.tile_px)
