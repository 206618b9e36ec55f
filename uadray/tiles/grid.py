"""Tissue mask -> the grid of tiles on a slide: where each tile lies, how much of it is tissue, and its id.

A tile's side on the glass is `tile_px * mpp` micrometres, whatever the scanner's own pixel size; in level-0 pixels
that is rarely a whole number. Both edges are rounded to whole level-0 pixels one by one, so that rounding never adds up
across a slide: tile i of a row reaches from `round(i * stride)` up to, and without, `round(i * stride + side)`. Where
the stride is the tile, each tile ends where the next begins: every level-0 pixel of the slide lies in exactly one tile,
at any size and scale, and widths differ by one pixel within a row.

What is read of a tile begins at its origin and is exactly `tile_px * mpp` long, so it ends less than a level-0 pixel
before or after the width in the table: a sliver thinner than that may be read by both neighbours or by none. Reading
whole pixels instead would give tiles of different mpp.

A tile id is `<slide_id>/x<x>_y<y>_<tile_px>px_<mpp>mpp`, in level-0 pixels: the same on every run and machine, and
another for every slide, place, size and exact mpp.
"""

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from uadray.errors import SlideError
from uadray.schemas import TILES
from uadray.tiles.spec import TileSpec
from uadray.tiles.tissue import tissue_fraction

BAND_TISSUE = 0.9
BAND_BACKGROUND = 0.1
"""The three bands of tissue coverage: a tile of at least 90 % is `tissue`, of at most 10 % `background`, else
`border`."""

MAX_TILES = 20_000_000
"""Of a grid. A slide of 250,000 x 250,000 px has 15 million tiles of 64 px; a header that claims more is not
believed."""

MAX_TISSUE_TILES = 5_000_000
"""Of a grid that are tissue: 25 x 50 mm full of tissue in tiles of 16 um, half a gigabyte of rows."""

TILES_AT_ONCE = 2**18
"""Tiles of the grid whose fraction of tissue is computed together, so that memory stays bounded."""

_TILE_ID = re.compile(r"(.*)/x([0-9]+)_y([0-9]+)_([0-9]+)px_([0-9.]+)mpp", re.DOTALL)


def slide_of(tile_id: str) -> str | None:
    """The slide that a tile id names; None for an id that is not of a grid (ids of tile sets are paths).

    >>> slide_of("a/x96_y0_64px_0.5mpp"), slide_of("normal/7.png")
    ('a', None)
    """
    match = _TILE_ID.fullmatch(tile_id)
    return match[1] if match else None


def _mpp_text(mpp: float) -> str:
    """A pixel size with six digits where these are exact, else with as many as are needed."""
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
    """The tiles of a slide that have at least `spec.min_tissue` of tissue, row by row.

    Tiles of glass are only counted (`n_grid`) and have no row, so that memory grows with the tissue and not with the
    size that a header claims. The last column and row reach over the slide's edge where its size is no multiple of the
    stride. A stride below one level-0 pixel gives one tile a pixel, so that no id occurs twice.

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
    kept_rows: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
    n_kept = 0
    for start in range(0, len(rows[0]), at_once):
        some_rows = slice(start, start + at_once)
        x, y = (a.ravel() for a in np.meshgrid(columns[0], rows[0][some_rows]))
        width, height = (a.ravel() for a in np.meshgrid(columns[1], rows[1][some_rows]))
        fraction = tissue_fraction(mask, size_level0_px, x, y, width, height)
        kept = fraction.astype(np.float32) >= spec.min_tissue  # rounded as in the table
        kept_rows.append((np.stack([x[kept], y[kept], width[kept], height[kept]]), fraction[kept]))
        n_kept += int(kept.sum())
        if n_kept > MAX_TISSUE_TILES:
            raise SlideError(
                slide_id,
                "too_large",
                f"{size_level0_px[0]} x {size_level0_px[1]} px have tissue in over {MAX_TISSUE_TILES:,} tiles of "
                f"{spec.tile_px} px at {spec.mpp:g} um/px; take larger or coarser tiles",
            )
    places, fractions = (np.concatenate(arrays, axis=-1) for arrays in zip(*kept_rows, strict=True))
    return _table(slide_id, places, fractions, spec)


def n_grid(slide_id: str, size_level0_px: tuple[int, int], mpp_level0: float, spec: TileSpec) -> int:
    """How many tiles the whole grid has, glass included. Arguments and errors are those of `grid`."""
    columns, rows = _sides(slide_id, size_level0_px, mpp_level0, spec)
    return len(columns[0]) * len(rows[0])


_Side = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _sides(slide_id: str, size_level0_px: tuple[int, int], mpp_level0: float, spec: TileSpec) -> tuple[_Side, _Side]:
    """Origins and widths of the columns, and origins and heights of the rows, in level-0 pixels."""
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
    """The table of schema `TILES`. Its texts are made by Arrow, without a Python object for each.

    Args:
        slide_id: of all rows.
        places: [4, n]: x, y, width and height.
        fractions: [n] of tissue.
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
    """Origins and widths of tiles along one side, in whole level-0 pixels; None for more than `MAX_TILES`."""
    stride = spec.stride * scale
    if side_px / stride > MAX_TILES:
        return None
    places = np.arange(int(side_px / stride) + 2)
    # One formula for both edges: where the stride is the tile, an end equals the next origin to the last bit.
    origins, ends = (np.rint(a * stride).astype(np.int64) for a in (places, places + spec.tile_px / spec.stride))
    kept = (origins < side_px) & (np.append(origins[1:], side_px) > origins)
    return origins[kept], np.maximum(ends - origins, 1)[kept]
