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
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from uadray.config import Config
from uadray.errors import InputError, SlideError
from uadray.quality import QualityConfig
from uadray.schemas import TILES
from uadray.stain import StainConfig
from uadray.tissue import tissue_fraction

BAND_TISSUE = 0.9
BAND_BACKGROUND = 0.1
"""The three bands of tissue coverage: >= 90 % is tissue, <= 10 % is background, what lies between is border."""

MAX_TILES = 20_000_000
"""A slide of 250,000 x 250,000 px has 15 million 64 px tiles; a header that claims more is not believed."""

Band = Literal["tissue", "border", "background"]


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


def band(tissue_fraction: float) -> Band:
    """The coverage band of a tile.

    >>> [band(f) for f in (1.0, 0.9, 0.5, 0.1)]
    ['tissue', 'tissue', 'border', 'background']
    """
    if tissue_fraction >= BAND_TISSUE:
        return "tissue"
    return "background" if tissue_fraction <= BAND_BACKGROUND else "border"


def grid(
    slide_id: str, size_level0_px: tuple[int, int], mpp_level0: float, mask: npt.NDArray[np.bool_], spec: TileSpec
) -> pa.Table:
    """All tiles of a slide, row by row, with their tissue; nothing is left out yet (see `keep_tissue`).

    The last column and row reach over the slide's edge where the size is no multiple of the stride. A stride below one
    level-0 pixel makes one tile a pixel, so that no id is there twice.

    Args:
        slide_id: goes into every tile id.
        size_level0_px: width and height of the slide.
        mpp_level0: the slide's own micrometres per pixel.
        mask: tissue of the whole slide, any resolution, [h, w].
        spec: where to cut.

    Returns:
        A table of schema `TILES`.

    Raises:
        SlideError: reason `too_large`: the header claims more tiles than any slide has.
    """
    scale = spec.mpp / mpp_level0
    columns, rows = (_spans(side, spec, scale) for side in size_level0_px)
    if columns is None or rows is None or len(columns[0]) * len(rows[0]) > MAX_TILES:
        raise SlideError(
            slide_id,
            "too_large",
            f"{size_level0_px[0]} x {size_level0_px[1]} px would be over {MAX_TILES:,} tiles; is its header intact?",
        )
    x, y = (a.ravel() for a in np.meshgrid(columns[0], rows[0]))
    width, height = (a.ravel() for a in np.meshgrid(columns[1], rows[1]))
    fraction = tissue_fraction(mask, size_level0_px, x, y, width, height)
    mpp_text = _mpp_text(spec.mpp)
    return pa.table(
        {
            "tile_id": [
                _id(slide_id, *place, spec.tile_px, mpp_text) for place in zip(x.tolist(), y.tolist(), strict=True)
            ],
            "slide_id": [slide_id] * len(x),
            "x_level0_px": x,
            "y_level0_px": y,
            "width_level0_px": width,
            "height_level0_px": height,
            "tissue_fraction": fraction.astype(np.float32),
            "band": [band(f) for f in fraction.tolist()],
        },
        schema=TILES,
    )


def keep_tissue(tiles: pa.Table, spec: TileSpec) -> pa.Table:
    """The tiles with at least `spec.min_tissue` of tissue."""
    return tiles.filter(tiles["tissue_fraction"].to_numpy() >= spec.min_tissue)


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
