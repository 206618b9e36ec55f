"""Scored tiles of a slide -> detections: points with a confidence, which FROC judges.

Points are the highest tiles of their surroundings: the highest tile is a detection at its centre, tiles around it are
taken out, and so on to the last tile (non-maximum suppression, as in Camelyon16's entries). A detection's confidence is
its tile's score; no threshold is applied, as FROC goes through all of them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from uadray.config import Config

Floats = npt.NDArray[np.float64]

RADIUS_UM = 12 * 2**6 * 0.243
"""Within which one detection stands for all, 187 um: two tiles of 93 um, and the 12 pixels of level 6 that the
metastasis detector NCRF took (https://github.com/baidu-research/NCRF, README)."""


class DetectionConfig(Config):
    """How tiles become detections.

    Attributes:
        by: each `tile` that is the highest around it, or each `region` of tiles that reach the threshold, at its
            highest tile.
        radius_um: of tiles, within which one stands for all.
        threshold: of regions, the least tile score, on the detector's own scale.
    """

    by: Literal["tile", "region"] = "tile"
    radius_um: float = Field(default=RADIUS_UM, gt=0, le=10_000)
    threshold: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> "DetectionConfig":
        if (self.by == "region") is (self.threshold is None):
            raise ValueError("threshold goes with by: region, and is needed there")
        return self


@dataclass(frozen=True, eq=False)
class Detections:
    """Points of one slide, the most confident first: level-0 pixels [n], [n], and confidences [n]."""

    x_level0_px: Floats
    y_level0_px: Floats
    confidence: Floats


def detections(tiles: pa.Table, config: DetectionConfig, *, mpp_level0: float) -> Detections:
    """The detections of a slide, from rows of `TILE_SCORES`; `mpp_level0` is um of a level-0 pixel."""
    if config.threshold is not None:
        return highest_of_regions(tiles, threshold=config.threshold)
    return highest_tiles(tiles, mpp_level0=mpp_level0, radius_um=config.radius_um)


def highest_tiles(tiles: pa.Table, *, mpp_level0: float, radius_um: float = RADIUS_UM) -> Detections:
    """The tiles that no higher tile lies near to.

    Of equal tiles the first in reading order is the higher one.

    Args:
        tiles: rows of `TILE_SCORES`; without a finite score they are left out.
        mpp_level0: um of a level-0 pixel.
        radius_um: from centre to centre; tiles at this distance are still near.
    """
    x, y, score = centres(tiles)
    order = np.lexsort((x, y, -score))
    points = np.column_stack([x, y])[order]
    radius_px = radius_um / mpp_level0 * (1 + 1e-6) + 1  # level-0 places are rounded to whole pixels
    tree, is_left, kept = cKDTree(points), np.ones(len(points), np.bool_), []
    for i in range(len(points)):
        if is_left[i]:
            kept.append(i)
            is_left[tree.query_ball_point(points[i], radius_px)] = False
    chosen = order[kept]
    return Detections(x[chosen], y[chosen], score[chosen])


def highest_of_regions(tiles: pa.Table, *, threshold: float) -> Detections:
    """The highest tile of each region of tiles that reach a threshold and touch, corners included.

    Args:
        tiles: rows of `TILE_SCORES`.
        threshold: the least score.
    """
    x, y, score = centres(tiles)
    reaches = score >= threshold
    x, y, score = x[reaches], y[reaches], score[reaches]
    if not len(x):
        return Detections(x, y, score)
    side_px = float(tiles["width_level0_px"].to_numpy().max())
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(side_px + 1, p=np.inf, output_type="ndarray")
    touching = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(x), len(x)))
    _, region = connected_components(touching, directed=False)
    order = np.lexsort((x, y, -score))
    _, first = np.unique(region[order], return_index=True)
    chosen = order[np.sort(first)]
    return Detections(x[chosen], y[chosen], score[chosen])


def centres(tiles: pa.Table) -> tuple[Floats, Floats, Floats]:
    """The centres of tiles with a finite score, and their scores; level-0 pixels."""
    score = tiles["score"].to_numpy(zero_copy_only=False).astype(np.float64)
    names = ("x_level0_px", "y_level0_px", "width_level0_px", "height_level0_px")
    x, y, w, h = (tiles[name].to_numpy().astype(np.float64)[np.isfinite(score)] for name in names)
    return x + w / 2, y + h / 2, score[np.isfinite(score)]
