"""Heatmaps and lesions of many slides -> AUPRO, the area under the curve of per-region overlap.

Bergmann et al. 2021 (https://doi.org/10.1007/s11263-020-01400-4): at a threshold, the per-region overlap
is the share of each lesion that lies at or above it, averaged over lesions of any size alike, and the false-positive
rate the share of all that is not lesion. The curve is integrated up to a rate of 0.3 and divided by 0.3.

The heatmap of a slide is its scored tiles, and all is measured in area: a tile that a lesion covers in part counts in
part for both. What has no score (glass, flagged tiles) is neither right nor wrong outside lesions; of a lesion it is
missed at each threshold.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from uadray.evaluation.lesions import TOUCHING
from uadray.evaluation.outlines import shared_area

Floats = npt.NDArray[np.float64]

LIMIT = 0.3
"""False-positive rate up to which is integrated."""

MOST = 2**22
"""Scores that are kept as they are; more are put together in bins."""

BINS = 2**18
"""Of equal weight: what this changes of a rate is less than the number of times over 262,144."""

CURVE_POINTS = 500


class _Above:
    """Weights by score; bounded."""

    def __init__(self) -> None:
        self._parts: list[tuple[Floats, Floats]] = []
        self._kept = 0

    def add(self, scores: Floats, weights: Floats) -> None:
        """Take weights [n] at scores [n]."""
        has_weight = weights > 0
        self._parts.append((scores[has_weight], weights[has_weight]))
        self._kept += int(has_weight.sum())
        if self._kept > MOST:
            scores, weights = self.sorted()
            total = np.cumsum(weights)
            which = np.minimum(total / total[-1] * BINS, BINS - 1).astype(np.int64)
            firsts = np.flatnonzero(np.diff(which, prepend=-1))
            self._parts = [(scores[firsts], np.add.reduceat(weights, firsts))]
            self._kept = len(firsts)

    def sorted(self) -> tuple[Floats, Floats]:
        """Scores in descending order, and their weights."""
        scores, weights = (np.concatenate([part[i] for part in self._parts] or [np.empty(0)]) for i in (0, 1))
        order = np.argsort(-scores, kind="stable")
        return scores[order], weights[order]


class Aupro:
    """The heatmaps of slides, or of pictures, seen so far; memory does not grow with them beyond `MOST`."""

    def __init__(self) -> None:
        self._normal, self._lesion = _Above(), _Above()
        self.regions = 0

    def add_tiles(self, tiles: pa.Table, outline: Any | None) -> None:
        """Take a slide.

        Args:
            tiles: rows of `TILE_SCORES`; of tiles that overlap, each stands for the middle of it alone.
            outline: its lesions, polygons in level-0 pixels; None where it has none.
        """
        boxes, score = cells(tiles)
        lesions = regions(outline)
        normal = shapely.area(boxes)
        for lesion in lesions:
            shared = shared_area(boxes, lesion)
            normal -= shared
            self._lesion.add(score, shared / lesion.area)
        self.regions += len(lesions)
        self._normal.add(score, np.where(normal > 1e-6 * shapely.area(boxes), normal, 0))

    def add_map(self, scores: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> None:
        """Take a picture: a score of each pixel [h, w], and which of them are anomalous [h, w]."""
        labels, n = ndimage.label(mask, structure=TOUCHING)
        flat, number = scores.ravel().astype(np.float64), labels.ravel()
        sizes = np.bincount(number, minlength=n + 1)
        self._lesion.add(flat[number > 0], 1 / sizes[number[number > 0]])
        self._normal.add(flat[number == 0], np.ones(sizes[0]))
        self.regions += n

    def figures(self) -> dict[str, Any] | None:
        """`score` (0 to 1), `limit`, `regions` and `curve` of `[false-positive rate, overlap]` up to the limit.

        None where there is no region, or nothing else.
        """
        rate, overlap = self.curve()
        if not self.regions or not len(rate):
            return None
        rate, overlap = up_to(rate, overlap, LIMIT)
        kept = np.unique(np.linspace(0, len(rate) - 1, min(CURVE_POINTS, len(rate))).round().astype(int))
        return {
            "score": float(np.trapezoid(overlap, rate) / LIMIT),
            "limit": LIMIT,
            "regions": self.regions,
            "curve": np.column_stack([rate, overlap])[kept].round(6).tolist(),
        }

    def curve(self) -> tuple[Floats, Floats]:
        """False-positive rates, ascending from 0, and the mean overlap at each; empty where nothing is normal."""
        (normal, area), (lesion, share) = self._normal.sorted(), self._lesion.sorted()
        if not len(normal) or not self.regions:
            return np.empty(0), np.empty(0)
        scores = np.concatenate([normal, lesion])
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        of_normal = np.concatenate([area / area.sum(), np.zeros(len(lesion))])[order]
        of_lesion = np.concatenate([np.zeros(len(normal)), share / self.regions])[order]
        rate, overlap = (np.append(0.0, np.cumsum(of)[ends]) for of in (of_normal, of_lesion))
        return np.minimum(rate, 1.0), np.minimum(overlap, 1.0)


def up_to(rate: Floats, overlap: Floats, limit: float) -> tuple[Floats, Floats]:
    """A curve up to a rate, whose end is interpolated; a curve that ends before goes on level.

    >>> [part.tolist() for part in up_to(np.array([0.0, 0.2, 0.4]), np.array([0.0, 0.5, 1.0]), 0.3)]
    [[0.0, 0.2, 0.3], [0.0, 0.5, 0.75]]
    """
    below = rate <= limit
    if rate[below][-1] == limit:
        return rate[below], overlap[below]
    end = np.interp(limit, rate, overlap)
    return np.append(rate[below], limit), np.append(overlap[below], end)


def cells(tiles: pa.Table) -> tuple[npt.NDArray[Any], Floats]:
    """What each tile with a finite score stands for, as boxes in level-0 pixels [n], and the scores [n].

    That is the tile; where tiles overlap, its middle, as wide as the distance from one to the next.
    """
    score = tiles["score"].to_numpy(zero_copy_only=False).astype(np.float64)
    tiles, score = tiles.filter(pa.array(np.isfinite(score))), score[np.isfinite(score)]
    x, w = _middles(tiles, "x_level0_px", "width_level0_px")
    y, h = _middles(tiles, "y_level0_px", "height_level0_px")
    return np.asarray(shapely.box(x, y, x + w, y + h)), score


def _middles(tiles: pa.Table, place: str, side: str) -> tuple[Floats, Floats]:
    """First pixels and lengths of what tiles stand for, along one axis."""
    first, length = (tiles[name].to_numpy().astype(np.float64) for name in (place, side))
    gaps = np.diff(np.unique(first))
    step = gaps.min() if len(gaps) else np.inf
    if not len(length) or step >= 0.9 * length.mean():  # side by side; places are rounded to whole pixels
        return first, length
    return first + (length - step) / 2, np.full_like(length, step)


def regions(outline: Any | None) -> list[Any]:
    """The lesions of an outline: its polygons, those that touch taken together, corners included."""
    parts = [] if outline is None else [p for p in _flat(outline) if p.geom_type == "Polygon" and p.area > 0]
    if len(parts) < 2:
        return parts
    first, second = shapely.STRtree(parts).query(parts, predicate="intersects")
    touching = coo_array((np.ones(len(first)), (first, second)), shape=(len(parts), len(parts)))
    n, number = connected_components(touching, directed=False)
    members = [[parts[i] for i in np.flatnonzero(number == each)] for each in range(n)]
    return [each[0] if len(each) == 1 else shapely.multipolygons(each) for each in members]


def _flat(outline: Any) -> list[Any]:
    """The parts of a geometry, those of collections in it too."""
    return [piece for part in shapely.get_parts(outline) for piece in shapely.get_parts(part)]
