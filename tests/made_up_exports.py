"""Slides to export whose scores are made up: one in memory, or a screening's folder of them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from uadray.bench.export_material import (
    CALIBRATION,
    SPEC,
    TILE_PX,
    decision_of,
    scores_in_patches,
    tiles_of,
    write_screening,
)
from uadray.exports.exported_slide import ExportedSlide, Scale

__all__ = ["BOUNDS", "TILE_PX", "made_screening", "made_slide"]

BOUNDS = {
    "bounds_x_level0_px": 100, "bounds_y_level0_px": 50, "bounds_width_level0_px": 900, "bounds_height_level0_px": 800,
}  # fmt: skip


def made_slide(scores: Any, **more: Any) -> ExportedSlide:
    """A slide full of tiles with these scores, [h, w]; NaN for a tile without."""
    values: npt.NDArray[np.float64] = np.asarray(scores, np.float64)
    decision = decision_of("s", **more)
    return ExportedSlide(decision, tiles_of("s", values), SPEC, "made-up", Scale.of(CALIBRATION))


def made_screening(folder: Path, n_slides: int = 4, *, side: int = 12, **more: Any) -> str:
    """The folder of a screening of `n_slides` scored slides, `s0` and so on, the odd ones normal; and a failed one."""
    decisions = [
        decision_of(f"s{i}", **({"decision": "normal", "p_value": 0.5} if i % 2 else {}), **more)
        for i in range(n_slides)
    ]
    decisions.append(decision_of("broken", state="failed", decision=None, score=None, reason="unreadable"))
    write_screening(folder, decisions, [tiles_of("s", scores_in_patches(side, seed)) for seed in range(3)])
    return str(folder)


def write_flat_slide(path: Path, width: int, height: int) -> Path:
    """A tiled TIFF of one colour that OpenSlide opens, of 0.5 um/px."""
    pixels = np.full((height, width, 3), 220, np.uint8)
    resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **resolution)
    return path
