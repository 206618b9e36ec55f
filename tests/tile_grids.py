"""Scored tiles side by side."""

import numpy as np
import pyarrow as pa

from uadray.schemas import TILE_SCORES

STEP = 96


def grid_tiles(scores: list[list[float | None]], *, side_px: int = STEP, step_px: int = STEP) -> pa.Table:
    """Rows of `TILE_SCORES` of tiles side by side; a tile whose score is NaN is not there."""
    rows = [
        {
            "tile_id": f"{x}_{y}", "slide_id": "s", "x_level0_px": x * step_px, "y_level0_px": y * step_px,
            "width_level0_px": side_px, "height_level0_px": side_px, "tissue_fraction": 1.0, "band": "a", "score": s,
        }
        for y, line in enumerate(scores) for x, s in enumerate(line) if s is None or np.isfinite(s)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TILE_SCORES)
