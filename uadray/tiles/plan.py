"""Thumbnail -> the plan of a slide: which of its tiles are read, in which order, and which are left out and why.

Everything that can be known of a slide without reading a tile is worked out here: tissue, quality, stain, grid. Of the
slide's pixels only the thumbnail is read. `chunks` then reads the tiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.errors import InputError, SlideError
from uadray.slides.slide import Slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import finer_level, reading_order
from uadray.storage import objects
from uadray.tiles.grid import grid, n_grid
from uadray.tiles.mask_folder import mask_uri
from uadray.tiles.mask_geojson import MAX_BYTES, read_mask
from uadray.tiles.mask_outlines import write_masks
from uadray.tiles.quality import Flag, Mask, QualityConfig, flag_masks, tile_flags
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain, StainError
from uadray.tiles.stain_fit import fit_stain
from uadray.tiles.tissue import block_means, tissue_mask

PREVIEW_PX = 640
"""Longest side of the small picture that the page of a slide shows."""


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
        flags: the flag of each tile of `flagged`.
        n_grid: number of tiles of the whole grid, glass included.
        preview: RGB [h, w, 3], at most `PREVIEW_PX` a side.
        masks: tissue and flagged regions as GeoJSON, which people can edit.
        bounds_level0_px: of what was scanned, where level 0 is larger, see `Slide.bounds_px`.
        stain: the stains of this slide; None where colours are not normalised, or no tile is left to read.
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
    bounds_level0_px: tuple[int, int, int, int] | None
    stain: Stain | None


def plan_slide(slide: Slide, *, etag: str, spec: TileSpec) -> SlidePlan:
    """Decide which tiles of a slide are read.

    Raises:
        SlideError: `unreadable`, `too_coarse`, `too_large`, `no_overview`; `bad_mask`: its edited mask cannot be used;
            or `no_stain`: its stains cannot be told, and without normalisation its colours would look abnormal.
    """
    finer_level(slide, spec.mpp, spec.max_coarser)  # refuses a slide that is too coarse before anything is read
    image, mpp = thumbnail(slide)
    size = slide.level_sizes_px[0]
    tissue = _tissue(slide, image, mpp, spec)
    tiles = grid(slide.slide_id, size, slide.mpp, tissue, spec)
    layers = {"Tissue": tissue}
    flags: list[Flag | None] = [None] * len(tiles)
    if spec.quality is not None:
        masks = flag_masks(image, mpp, tissue, spec.quality)
        layers |= {flag.capitalize(): mask for flag, mask in masks.items()}
        flags = _flags(masks, tiles, size, spec.quality)
    is_good = np.array([flag is None for flag in flags], dtype=np.bool_)
    good = tiles.filter(pa.array(is_good))
    x, y = (good[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    order = reading_order(slide, x, y, mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser)
    return SlidePlan(
        slide_id=slide.slide_id,
        etag=etag,
        mpp_level0=slide.mpp,
        size_level0_px=size,
        tiles=good.take(order),
        flagged=tiles.filter(pa.array(~is_good)),
        flags=[flag for flag in flags if flag is not None],
        n_grid=n_grid(slide.slide_id, size, slide.mpp, spec),
        preview=_preview(image),
        masks=write_masks(layers, size),
        bounds_level0_px=slide.bounds_px,
        stain=_stain(slide, image, tissue, spec) if len(good) else None,
    )


def _tissue(slide: Slide, image: npt.NDArray[np.uint8], mpp: float, spec: TileSpec) -> npt.NDArray[np.bool_]:
    """The slide's edited mask where there is one, else the tissue that the thumbnail shows.

    An edited mask that only says what to cut out is taken from the tissue that the thumbnail shows.
    """
    uri = mask_uri(spec.mask_dir, slide.slide_id) if spec.mask_dir else None
    if uri is None or not objects.exists(uri):
        return tissue_mask(image, mpp)
    try:
        data = objects.read_bytes(uri, max_bytes=MAX_BYTES)
    except InputError as error:
        raise SlideError(slide.slide_id, "bad_mask", str(error)) from error
    return read_mask(
        data,
        slide.slide_id,
        slide.level_sizes_px[0],
        (image.shape[0], image.shape[1]),
        source=uri,
        detected=tissue_mask(image, mpp),
    )


def _flags(
    masks: Mapping[Flag, Mask], tiles: pa.Table, size: tuple[int, int], config: QualityConfig
) -> list[Flag | None]:
    """The flag of each tile, None for a good one."""
    x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    side = int(tiles["width_level0_px"][0].as_py()) if len(tiles) else 1
    return tile_flags(masks, x, y, side_level0_px=side, size_level0_px=size, config=config)


def _stain(slide: Slide, image: npt.NDArray[np.uint8], tissue: npt.NDArray[np.bool_], spec: TileSpec) -> Stain | None:
    """The stains of the slide; None where colours are not normalised."""
    if spec.stain is None:
        return None
    try:
        return fit_stain(image, spec.stain, mask=tissue)
    except StainError as error:
        raise SlideError(slide.slide_id, "no_stain", f"its colours cannot be normalised: {error.message}") from error


def _preview(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The thumbnail, reduced to at most `PREVIEW_PX` a side."""
    factor = min(1.0, PREVIEW_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    while min(image.shape[0] / size[1], image.shape[1] / size[0]) >= 2:  # OpenCV is fast at halving
        image = block_means(image, 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
