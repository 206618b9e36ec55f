"""Polygons -> the pixels of a mask that they cover, within a budget: polygons come from other people's files."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
"""[n, 2], x and y, of a ring; closed or not."""
Polygon = list[Points]
"""The outer ring, then holes."""


class Budget:
    """How much of each kind of work may still be done.

    >>> budget = Budget(vertices=5)
    >>> budget.spend("vertices", 4)
    >>> budget.spend("vertices", 2)
    Traceback (most recent call last):
    ValueError: too large: its vertices are more than is read
    """

    def __init__(self, **limits: int) -> None:
        self._left = limits

    def spend(self, kind: str, amount: int) -> None:
        """Take some work from the budget.

        Raises:
            ValueError: there is less left than that.
        """
        self._left[kind] -= amount
        if self._left[kind] < 0:
            raise ValueError(f"too large: its {kind} are more than is read")


def filled(shape: tuple[int, ...], polygon: Polygon, budget: Budget) -> tuple[tuple[slice, slice], Mask]:
    """The pixels of a mask whose centres lie inside a polygon.

    Filling is even-odd, so that holes, and rings that cross themselves, need no special care: each edge toggles what
    lies right of it, in the rows whose centres it spans. OpenCV's `fillPoly` would also set all pixels that an outline
    touches.

    Args:
        shape: height and width of the mask.
        polygon: in pixels of the mask.
        budget: `filled` pixels and `crossings` of edges with rows are taken from it.

    Returns:
        Rows and columns of the box around the polygon, and the mask in this box.

    Raises:
        ValueError: the budget is spent.
    """
    limits = np.array([shape[1], shape[0]])
    points = np.concatenate(polygon)
    left, top = np.clip(np.floor(points.min(0)), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, limits).astype(int)
    box = slice(top, bottom), slice(left, right)
    if right <= left or bottom <= top:
        return box, np.zeros((bottom - top, right - left), np.bool_)
    budget.spend("filled", int((right - left) * (bottom - top)))
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)
    _toggle(toggles, points - (left, top), next_in_ring(polygon), budget)
    return box, (np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) & 1).view(np.bool_)


def next_in_ring(rings: list[Points]) -> npt.NDArray[np.int64]:
    """For the points of all rings, one ring after the other: the index of the next point of the same ring."""
    stops = np.cumsum([len(ring) for ring in rings])
    following = np.arange(1, stops[-1] + 1)
    following[stops - 1] = np.concatenate([[0], stops[:-1]])
    return following


def _toggle(toggles: npt.NDArray[np.uint8], points: Points, following: npt.NDArray[np.int64], budget: Budget) -> None:
    """Toggle pixels where an edge crosses a row; from there to the right inside and outside change places."""
    height, width = toggles.shape
    ends = points[following]
    first, last = (
        np.clip(np.ceil(y - 0.5), 0, height)
        for y in (np.minimum(points[:, 1], ends[:, 1]), np.maximum(points[:, 1], ends[:, 1]))
    )
    counts = (last - first).astype(np.int64)
    budget.spend("crossings", int(counts.sum()))
    start = 0
    for stop in [*np.flatnonzero(np.diff(np.cumsum(counts) >> 22)) + 1, len(counts)]:  # about 4 million at a time
        n = counts[start:stop]
        edge = np.repeat(np.arange(start, stop), n)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(n) - n, n)
        share = (row + 0.5 - points[edge, 1]) / (ends[edge, 1] - points[edge, 1])
        x = points[edge, 0] + share * (ends[edge, 0] - points[edge, 0])
        column = np.clip(np.ceil(x - 0.5), 0, width - 1).astype(np.int64)
        np.add.at(toggles, (row.astype(np.int64), column), 1)  # the sum wraps at 256, which is even
        start = stop
