"""The grid of a slide at an exact mpp, the tissue in each tile, and stable tile ids.

A tile's side on the glass is `tile_px * mpp` micrometres, whatever the scanner's own pixel size; in level-0 pixels
that is rarely a whole number. Origins are rounded to whole level-0 pixels one by one, so that rounding never adds up
across a slide.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from uadray.config import Config
from uadray.errors import SlideError
from uadray.schemas import TILES

BAND_TISSUE = 0.9
BAND_BACKGROUND = 0.1
"""The three bands of tissue coverage: >= 90 % is tissue, <= 10 % is background, what lies between is border."""

MAX_TILES = 20_000_000
"""A slide of 250,000 x 250,000 px has 15 million 64 px tiles; a header that claims more is not believed."""

Band = Literal["tissue", "border", "background"]


class TileSpec(Config):
    """Where tiles are cut and which are kept.

    Attributes:
        mpp: micrometres per pixel of a tile.
        tile_px: side of a tile in pixels at `mpp`.
        stride_px: distance between tiles at `mpp`; `tile_px` unless given, so that tiles cover each point once.
        min_tissue: least fraction of tissue (0 to 1) of a tile that is kept.
    """

    mpp: float = Field(gt=0.01, lt=100)
    tile_px: int = Field(ge=8, le=4096)
    stride_px: int | None = Field(default=None, ge=1)
    min_tissue: float = Field(default=0.5, ge=0, le=1)

    @property
    def stride(self) -> int:
        """`stride_px`, or `tile_px` where it is not given."""
        return self.stride_px or self.tile_px

    @model_validator(mode="after")
    def _no_gaps(self) -> "TileSpec":
        if self.stride > self.tile_px:
            raise ValueError(f"stride_px {self.stride_px} leaves gaps between tiles of tile_px {self.tile_px}")
        return self


def tile_id(slide_id: str, x_level0_px: int, y_level0_px: int, spec: TileSpec) -> str:
    """A name that is the same on every run and machine.

    >>> tile_id("a", 96, 0, TileSpec(mpp=0.5, tile_px=64))
    'a/x96_y0_64px_0.5mpp'
    """
    return f"{slide_id}/x{x_level0_px}_y{y_level0_px}_{spec.tile_px}px_{spec.mpp:g}mpp"


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

    The last column and row reach over the slide's edge where the size is no multiple of the stride.

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
    xs, ys = (_origins(side, spec.stride * scale) for side in size_level0_px)
    if xs is None or ys is None or len(xs) * len(ys) > MAX_TILES:
        raise SlideError(
            slide_id,
            "too_large",
            f"{size_level0_px[0]} x {size_level0_px[1]} px would be over {MAX_TILES:,} tiles; is its header intact?",
        )
    side = int(np.ceil(round(spec.tile_px * scale, 6)))  # whole pixels that a tile touches: no gaps
    x, y = (a.ravel() for a in np.meshgrid(xs, ys))
    fraction = tissue_fraction(mask, size_level0_px, x, y, side)
    return pa.table(
        {
            "tile_id": [tile_id(slide_id, int(a), int(b), spec) for a, b in zip(x, y, strict=True)],
            "slide_id": [slide_id] * len(x),
            "x_level0_px": x,
            "y_level0_px": y,
            "width_level0_px": np.full(len(x), side),
            "height_level0_px": np.full(len(x), side),
            "tissue_fraction": fraction.astype(np.float32),
            "band": [band(float(f)) for f in fraction],
        },
        schema=TILES,
    )


def keep_tissue(tiles: pa.Table, spec: TileSpec) -> pa.Table:
    """The tiles with at least `spec.min_tissue` of tissue."""
    return tiles.filter(tiles["tissue_fraction"].to_numpy() >= spec.min_tissue)


def _origins(side_px: int, stride_px: float) -> npt.NDArray[np.int64] | None:
    """Rounded origins along one side; None where there would be absurdly many."""
    count = int(np.ceil(round(side_px / stride_px, 6)))
    if count > MAX_TILES:
        return None
    origins: npt.NDArray[np.int64] = np.rint(np.arange(max(1, count)) * stride_px).astype(np.int64)
    return origins[origins < side_px]  # a last one may round onto the edge


def tissue_fraction(
    mask: npt.NDArray[np.bool_],
    size_level0_px: tuple[int, int],
    x_level0_px: npt.NDArray[np.int64],
    y_level0_px: npt.NDArray[np.int64],
    side_level0_px: int,
) -> npt.NDArray[np.float64]:
    """Fraction of tissue (0 to 1) in square tiles; what lies outside the slide counts as background.

    Exact for a mask whose pixels are constant: an integral image, read between its nodes by bilinear interpolation.

    Returns:
        [n] fractions.
    """
    height, width = mask.shape
    integral = np.zeros((height + 1, width + 1))
    integral[1:, 1:] = mask.cumsum(0).cumsum(1)
    sx, sy = width / size_level0_px[0], height / size_level0_px[1]
    x0, x1 = (np.clip((x_level0_px + d) * sx, 0, width) for d in (0, side_level0_px))
    y0, y1 = (np.clip((y_level0_px + d) * sy, 0, height) for d in (0, side_level0_px))
    inside = _at(integral, y1, x1) - _at(integral, y0, x1) - _at(integral, y1, x0) + _at(integral, y0, x0)
    fraction: npt.NDArray[np.float64] = np.clip(inside / (side_level0_px**2 * sx * sy), 0, 1)
    return fraction


def _at(
    integral: npt.NDArray[np.float64], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    top, left = (np.minimum(a.astype(np.int64), n - 2) for a, n in ((y, integral.shape[0]), (x, integral.shape[1])))
    fy, fx = y - top, x - left
    upper = integral[top, left] * (1 - fx) + integral[top, left + 1] * fx
    lower = integral[top + 1, left] * (1 - fx) + integral[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)
