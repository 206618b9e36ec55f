"""The grid of a slide at an exact mpp, the tissue in each tile, and stable tile ids.

A tile's side on the glass is `tile_px * mpp` micrometres, whatever the scanner's own pixel size; in level-0 pixels
that is rarely a whole number. Both edges are rounded to whole level-0 pixels one by one, so that rounding never adds up
across a slide: tile i of a row reaches from `round(i * stride)` up to, and without, `round(i * stride + side)`. Where
the stride is the tile, each tile ends where the next begins: every level-0 pixel of the slide lies in exactly one tile,
at any size and scale, and widths differ by one pixel within a row.

What is read of a tile begins at its origin and is exactly `tile_px * mpp` long, so it ends less than a level-0 pixel
before or after the width in the table: a sliver thinner than that may be read by both neighbours or by none. Reading
whole pixels instead would give tiles of different mpp.
"""

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from uadray.config import Config
from uadray.errors import InputError, SlideError
from uadray.schemas import TILES
from uadray.tiles.quality import QualityConfig
from uadray.tiles.stain import StainConfig
from uadray.tiles.tissue import tissue_fraction

BAND_TISSUE = 0.9
BAND_BACKGROUND = 0.1
"""The three bands of tissue coverage: >= 90 % is tissue, <= 10 % is background, what lies between is border."""

MAX_TILES = 20_000_000
"""A slide of 250,000 x 250,000 px has 15 million 64 px tiles; a header that claims more is not believed."""

MAX_TISSUE_TILES = 5_000_000
"""25 x 50 mm of nothing but tissue in tiles of 16 um: half a gigabyte of rows."""

TILES_AT_ONCE = 2**18
"""Tiles of the grid whose tissue is looked at together."""


class TileSpec(Config):
    """Where tiles are cut, which are kept, and what is done to their pixels: the same for training and screening.

    Attributes:
        mpp: micrometres per pixel of a tile.
        tile_px: side of a tile in pixels at `mpp`.
        stride_px: distance between tiles at `mpp`; `tile_px` unless given, so that tiles cover each point once.
        min_tissue: least fraction of tissue (0 to 1) of a tile that is kept.
        quality: what is flagged as pen, fold, air or blur, and left out; None flags nothing.
        stain: what colours slides are brought to; None leaves them as they are.
        mask_dir: URI of a folder of edited masks, `<slide_id>.geojson`, in place of the tissue that is found. It is of
            one run: no bundle keeps it.
    """

    mpp: float = Field(gt=0.01, lt=100)
    tile_px: int = Field(ge=8, le=4096)
    stride_px: int | None = Field(default=None, ge=1)
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    quality: QualityConfig | None = Field(default_factory=QualityConfig)
    stain: StainConfig | None = None
    mask_dir: str | None = Field(default=None, exclude=True)

    @property
    def stride(self) -> int:
        """`stride_px`, or `tile_px` where it is not given."""
        return self.stride_px or self.tile_px

    @model_validator(mode="after")
    def _no_gaps(self) -> "TileSpec":
        if self.stride > self.tile_px:
            raise ValueError(f"stride_px {self.stride_px} leaves gaps between tiles of tile_px {self.tile_px}")
        return self


class TilePlace(NamedTuple):
    """What a tile id says."""

    slide_id: str
    x_level0_px: int
    y_level0_px: int
    tile_px: int
    mpp: float


def tile_id(slide_id: str, x_level0_px: int, y_level0_px: int, spec: TileSpec) -> str:
    """A name that is the same on every run and machine, and another for every slide, place and exact mpp.

    >>> tile_id("a", 96, 0, TileSpec(mpp=0.5, tile_px=64)), tile_id("a", 0, 0, TileSpec(mpp=0.50000001, tile_px=64))
    ('a/x96_y0_64px_0.5mpp', 'a/x0_y0_64px_0.50000001mpp')
    """
    return _id(slide_id, x_level0_px, y_level0_px, spec.tile_px, _mpp_text(spec.mpp))


def _id(slide_id: str, x: int, y: int, tile_px: int, mpp: str) -> str:
    return f"{slide_id}/x{x}_y{y}_{tile_px}px_{mpp}mpp"


_TILE_ID = re.compile(r"(.*)/x([0-9]+)_y([0-9]+)_([0-9]+)px_([0-9.]+)mpp", re.DOTALL)


def slide_of(tile_id: str) -> str | None:
    """The slide that a tile id names; None for one of another making (those of tile sets are paths).

    >>> slide_of("a/x96_y0_64px_0.5mpp"), slide_of("normal/7.png")
    ('a', None)
    """
    found = _TILE_ID.fullmatch(tile_id)
    return found[1] if found else None


def parse_tile_id(text: str) -> TilePlace:
    """The reverse of `tile_id`.

    >>> parse_tile_id("a/x96_y0_64px_0.5mpp")
    TilePlace(slide_id='a', x_level0_px=96, y_level0_px=0, tile_px=64, mpp=0.5)

    Raises:
        InputError: it is not the id of a tile cut from a slide (those of tile sets are paths).
    """
    found = _TILE_ID.fullmatch(text)
    if not found:
        raise InputError(f"{text!r} is not a tile id; expected one like 'slide/x96_y0_64px_0.5mpp'")
    return TilePlace(found[1], int(found[2]), int(found[3]), int(found[4]), float(found[5]))


def _mpp_text(mpp: float) -> str:
    """Six digits where they say it all; else as many as it takes."""
    short = f"{mpp:g}"
    return short if float(short) == mpp else repr(float(mpp))


def bands(tissue_fraction: npt.NDArray[np.float64]) -> pa.Array:
    """The coverage band of each tile.

    >>> bands(np.array([1.0, 0.9, 0.5, 0.1])).to_pylist()
    ['tissue', 'tissue', 'border', 'background']
    """
    number = (tissue_fraction > BAND_BACKGROUND).astype(np.int8) + (tissue_fraction >= BAND_TISSUE)
    return pa.array(["background", "border", "tissue"]).take(pa.array(number))


def grid(
    slide_id: str, size_level0_px: tuple[int, int], mpp_level0: float, mask: npt.NDArray[np.bool_], spec: TileSpec
) -> pa.Table:
    """The tiles of a slide with at least `spec.min_tissue` of tissue, row by row.

    Tiles on glass are counted (`n_grid`), and never named: memory goes by the tissue, not by what a header claims. The
    last column and row reach over the slide's edge where the size is no multiple of the stride. A stride below one
    level-0 pixel makes one tile a pixel, so that no id is there twice.

    Args:
        slide_id: goes into every tile id.
        size_level0_px: width and height of the slide.
        mpp_level0: the slide's own micrometres per pixel.
        mask: tissue of the whole slide, any resolution, [h, w].
        spec: where to cut, and how much tissue a tile must have.

    Returns:
        A table of schema `TILES`.

    Raises:
        SlideError: reason `too_large`: the header claims more tiles than any slide has, or they show more tissue.
    """
    columns, rows = _sides(slide_id, size_level0_px, mpp_level0, spec)
    at_once = max(1, TILES_AT_ONCE // len(columns[0]))
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
    n_kept = 0
    for start in range(0, len(rows[0]), at_once):
        some = slice(start, start + at_once)
        x, y = (a.ravel() for a in np.meshgrid(columns[0], rows[0][some]))
        width, height = (a.ravel() for a in np.meshgrid(columns[1], rows[1][some]))
        fraction = tissue_fraction(mask, size_level0_px, x, y, width, height)
        kept = fraction.astype(np.float32) >= spec.min_tissue  # as the table has it
        found.append((np.stack([x[kept], y[kept], width[kept], height[kept]]), fraction[kept]))
        n_kept += int(kept.sum())
        if n_kept > MAX_TISSUE_TILES:
            raise SlideError(
                slide_id,
                "too_large",
                f"{size_level0_px[0]} x {size_level0_px[1]} px have tissue in over {MAX_TISSUE_TILES:,} tiles of "
                f"{spec.tile_px} px at {spec.mpp:g} um/px; take larger or coarser tiles",
            )
    places, fractions = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    return _table(slide_id, places, fractions, spec)


def n_grid(slide_id: str, size_level0_px: tuple[int, int], mpp_level0: float, spec: TileSpec) -> int:
    """How many tiles the whole grid has, glass included. Arguments and errors as of `grid`."""
    columns, rows = _sides(slide_id, size_level0_px, mpp_level0, spec)
    return len(columns[0]) * len(rows[0])


_Side = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _sides(slide_id: str, size_level0_px: tuple[int, int], mpp_level0: float, spec: TileSpec) -> tuple[_Side, _Side]:
    """Origins and widths of the columns, and of the rows."""
    scale = spec.mpp / mpp_level0
    columns, rows = (_spans(side, spec, scale) for side in size_level0_px)
    if columns is None or rows is None or len(columns[0]) * len(rows[0]) > MAX_TILES:
        raise SlideError(
            slide_id,
            "too_large",
            f"{size_level0_px[0]} x {size_level0_px[1]} px would be over {MAX_TILES:,} tiles; is its header intact?",
        )
    return columns, rows


def _table(
    slide_id: str, places: npt.NDArray[np.int64], fractions: npt.NDArray[np.float64], spec: TileSpec
) -> pa.Table:
    """Rows of schema `TILES`. Texts are made by Arrow, without a Python object each.

    Args:
        slide_id: of all rows.
        places: [4, n]: x, y, width and height.
        fractions: [n], of tissue.
        spec: of the tiles.
    """
    x, y, width, height = (pa.array(values) for values in places)
    end = f"_{spec.tile_px}px_{_mpp_text(spec.mpp)}mpp"
    ids = pc.binary_join_element_wise(f"{slide_id}/x", x.cast(pa.string()), "_y", y.cast(pa.string()), end, "")
    return pa.table(
        {
            "tile_id": ids,
            "slide_id": pa.repeat(slide_id, len(x)),
            "x_level0_px": x,
            "y_level0_px": y,
            "width_level0_px": width,
            "height_level0_px": height,
            "tissue_fraction": fractions.astype(np.float32),
            "band": bands(fractions),
        },
        schema=TILES,
    )


def _spans(side_px: int, spec: TileSpec, scale: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Origins and widths of tiles along one side, in whole level-0 pixels; None where there would be absurdly many."""
    stride = spec.stride * scale
    if side_px / stride > MAX_TILES:
        return None
    places = np.arange(int(side_px / stride) + 2)
    # one formula for both edges: where the stride is the tile, an end is the next origin to the last bit
    origins, ends = (np.rint(a * stride).astype(np.int64) for a in (places, places + spec.tile_px / spec.stride))
    kept = (origins < side_px) & (np.append(origins[1:], side_px) > origins)
    return origins[kept], np.maximum(ends - origins, 1)[kept]
