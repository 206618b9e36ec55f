"""Slides to draw: made-up tiles on a grid, with one tile that is a marker."""

from typing import Any

import numpy as np
import pyarrow as pa

from uadray.exports.exported_slide import ExportedSlide, Scale
from uadray.schemas import SLIDE_DECISIONS, TILE_SCORES
from uadray.tiles.grid import grid
from uadray.tiles.spec import TileSpec

SCALE = Scale(low=0.1, high=0.9, tile_threshold=0.8)


def pictured(
    size: tuple[int, int] = (4000, 3000),
    *,
    mpp: float = 0.5,
    spec: TileSpec | None = None,
    bounds: tuple[int, int, int, int] | None = None,
    marker: int | None = None,
    unscored: int | None = None,
    **more: Any,
) -> ExportedSlide:
    """A slide full of tiles that score 0.2; the tile `marker` scores 1, the tile `unscored` is blurred."""
    spec = spec or TileSpec(mpp=0.5, tile_px=100, quality=None)
    tiles = grid("a", size, mpp, np.ones((8, 8), bool), spec)
    scores: list[float | None] = [0.2] * len(tiles)
    flags: list[str | None] = [None] * len(tiles)
    if marker is not None:
        scores[marker] = 1.0
    if unscored is not None:
        scores[unscored], flags[unscored] = None, "blur"
    empty = {name: pa.nulls(len(tiles), TILE_SCORES.field(name).type) for name in ("mean_saturation", "mean_green")}
    columns = {name: tiles[name] for name in tiles.column_names} | empty
    columns |= {"score": pa.array(scores, pa.float64()), "flag": pa.array(flags, pa.string())}
    columns |= {"error": pa.nulls(len(tiles), pa.string())}
    sides = dict(zip(("x", "y", "width", "height"), bounds or (None,) * 4, strict=True))
    decision = dict.fromkeys(SLIDE_DECISIONS.names) | {
        "slide_id": "a", "uri": "/slides/a.tif", "state": "scored", "fingerprint": "f", "mpp_level0": mpp,
        "width_level0_px": size[0], "height_level0_px": size[1],
        **{f"bounds_{side}_level0_px": value for side, value in sides.items()},
    } | more  # fmt: skip
    return ExportedSlide(decision, pa.table(columns).select(TILE_SCORES.names), spec, "made-up", SCALE)


def place(slide: ExportedSlide, tile: int) -> tuple[int, int, int, int]:
    """x, y, width and height of a tile in level-0 pixels."""
    row = slide.tiles.slice(tile, 1).to_pylist()[0]
    x, y, width, height = (row[f"{side}_level0_px"] for side in ("x", "y", "width", "height"))
    return x, y, width, height
