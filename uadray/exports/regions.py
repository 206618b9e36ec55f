"""Tiles -> the regions that they make up: their union, exactly, as polygons with holes, and which tile is in which.

The edges of all tiles, in x and in y, cut the slide into cells, each of which lies in a tile or does not: on a grid
they are the tiles themselves. Cells that share a side are one region; those that meet in a corner are not. The outlines
are then followed along the sides of cells, so no coordinate is computed and none is rounded.

Where a region touches itself in a corner, its outline turns left there and comes apart into one around the region and
one around a hole that touches it, which OGC Simple Features (06-103r4, 6.1.11) allows; turning right it would be one
outline that meets itself, which it does not.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import shapely

from uadray.errors import InputError

Ints = npt.NDArray[np.int64]

MAX_CELLS = 2**26
"""Of the cells between all edges. Tiles on a grid, a million of them, have as many cells as tiles."""


@dataclass(frozen=True)
class Region:
    """Tiles that are joined by their sides.

    Attributes:
        rings: the outline and its holes, each [n, 2] of x and y in level-0 pixels, closed: the last is the first.
        tiles: places of its tiles among those that were given.
        area_px: of the union of its tiles, in level-0 pixels.
    """

    rings: tuple[Ints, ...]
    tiles: Ints
    area_px: int


def regions_of(boxes: Ints, *, tolerance_px: float = 0.0) -> list[Region]:
    """The regions of tiles, in the order of their first tiles.

    Args:
        boxes: [n, 4] x, y, width and height in level-0 pixels; tiles may overlap.
        tolerance_px: outlines with steps shorter than this are simplified (Douglas and Peucker 1973), and move by this
            at the most; the area is that of the tiles all the same.

    Raises:
        InputError: the tiles lie on no grid, and have more edges than a slide's can have.
    """
    if not len(boxes):
        return []
    x, y, width, height = boxes.T
    x_edges, y_edges = np.unique([x, x + width]), np.unique([y, y + height])
    if len(x_edges) * len(y_edges) > MAX_CELLS:
        raise InputError(f"{len(boxes)} tiles with {len(x_edges)} x {len(y_edges)} different edges lie on no grid")
    columns, rows = np.searchsorted(x_edges, x), np.searchsorted(y_edges, y)
    covered = _covered(
        columns, rows, np.searchsorted(x_edges, x + width), np.searchsorted(y_edges, y + height),
        shape=(len(y_edges) - 1, len(x_edges) - 1),
    )  # fmt: skip
    n_labels, labels = cv2.connectedComponents(covered, connectivity=4)
    areas = _areas(labels, n_labels, x_edges, y_edges)
    rings = _rings(labels, x_edges, y_edges)
    if tolerance_px > 0 and min(np.diff(x_edges).min(), np.diff(y_edges).min()) < tolerance_px:
        rings = {label: _simplified(of_region, tolerance_px) for label, of_region in rings.items()}
    of_tile = labels[rows, columns]
    order = np.argsort(of_tile, kind="stable")
    starts = np.searchsorted(of_tile[order], np.arange(1, n_labels + 1))
    tiles = np.split(order, starts)[1:]
    made = [Region(rings[label], tiles[label - 1], int(areas[label])) for label in range(1, n_labels)]
    return sorted(made, key=lambda region: int(region.tiles[0]))


def _covered(left: Ints, top: Ints, right: Ints, bottom: Ints, *, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Which cells lie in a tile, 0 or 1 [h, w]: tiles are given by the numbers of their edges."""
    if np.all(right - left == 1) and np.all(bottom - top == 1):  # each tile is a cell
        covered = np.zeros(shape, np.uint8)
        covered[top, left] = 1
        return covered
    changes = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
    for rows, columns, change in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(changes, (rows, columns), change)
    return np.asarray(changes.cumsum(0).cumsum(1)[:-1, :-1] > 0, np.uint8)


def _areas(labels: npt.NDArray[np.int32], n_labels: int, x_edges: Ints, y_edges: Ints) -> npt.NDArray[np.float64]:
    """The area of each label's cells."""
    area = np.diff(y_edges)[:, None] * np.diff(x_edges).astype(np.float64)
    return np.asarray(np.bincount(labels.ravel(), weights=area.ravel(), minlength=n_labels), np.float64)


def _rings(labels: npt.NDArray[np.int32], x_edges: Ints, y_edges: Ints) -> dict[int, tuple[Ints, ...]]:
    """The rings of each label, its outline first."""
    found: dict[int, list[tuple[float, Ints]]] = defaultdict(list)
    for label, corners in _walks(labels):
        ring = np.stack([x_edges[corners[:, 0]], y_edges[corners[:, 1]]], axis=1)
        ring = np.concatenate([ring, ring[:1]])
        centred = (ring - ring[0]).astype(np.float64)
        area = float(centred[:-1, 0] @ centred[1:, 1] - centred[1:, 0] @ centred[:-1, 1]) / 2
        found[label].append((-area, ring))  # clockwise on the screen is positive with y down: outlines, not holes
    return {label: tuple(ring for _, ring in sorted(rings, key=lambda each: each[0])) for label, rings in found.items()}


def _walks(labels: npt.NDArray[np.int32]) -> Iterator[tuple[int, Ints]]:
    """Each closed walk along the sides of cells, with the region at its right: its label, and its corners [n, 2]."""
    padded = np.pad(labels, 1)
    inner, stride = padded[1:-1, 1:-1], padded.shape[1] - 1  # vertices of a row
    sides = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    starts = ((0, 0), (0, 1), (1, 1), (1, 0))  # where the walk along that side begins: row, column
    vertices, directions, owners = [], [], []
    for number, (beside, (row, column)) in enumerate(zip(sides, starts, strict=True)):
        at = np.nonzero((inner > 0) & (beside == 0))
        vertices.append((at[0] + row) * stride + at[1] + column)
        directions.append(np.full(len(at[0]), number))
        owners.append(inner[at])
    vertex, direction, owner = np.concatenate(vertices), np.concatenate(directions), np.concatenate(owners)
    following = _following(vertex, direction, owner, stride)
    yield from _cycles(vertex, direction, owner, following, stride)


def _following(vertex: Ints, direction: Ints, owner: npt.NDArray[np.int32], stride: int) -> Ints:
    """Of each side, the place of the one that comes next."""
    keys = vertex * 4 + direction
    order = np.argsort(keys)
    ordered = keys[order]
    ends = vertex + np.array([1, stride, -1, -stride])[direction]

    def place(turned: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
        wanted = ends * 4 + (direction + turned) % 4
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return order[at], ordered[at] == wanted

    (right, has_right), (straight, has_straight), (left, has_left) = (place(turn) for turn in (1, 0, 3))
    both = has_right & has_left  # two cells meet in a corner: of one region, or of two
    goes_left = has_left & (~both | (owner[left] == owner))
    result: Ints = np.where(has_straight, straight, np.where(goes_left, left, right))
    return result


def _cycles(
    vertex: Ints, direction: Ints, owner: npt.NDArray[np.int32], following: Ints, stride: int
) -> Iterator[tuple[int, Ints]]:
    """The walks that `following` makes, each with its corners: where the direction changes."""
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    is_corner = (direction[before] != direction).tolist()
    after, vertices, is_new = following.tolist(), vertex.tolist(), [True] * len(following)
    for start in np.flatnonzero(direction[before] != direction).tolist():
        if not is_new[start]:
            continue
        corners, at = [], start
        while is_new[at]:
            is_new[at] = False
            if is_corner[at]:
                corners.append(vertices[at])
            at = after[at]
        rows, columns = np.divmod(np.array(corners, np.int64), stride)
        yield int(owner[start]), np.stack([columns, rows], axis=1)


def _simplified(rings: tuple[Ints, ...], tolerance_px: float) -> tuple[Ints, ...]:
    """Rings with fewer corners, of a polygon that is valid still."""
    polygon = shapely.simplify(shapely.Polygon(rings[0], list(rings[1:])), tolerance_px, preserve_topology=True)
    if polygon.is_empty or not polygon.is_valid:
        return rings
    return tuple(shapely.get_coordinates(ring).astype(np.int64) for ring in (polygon.exterior, *polygon.interiors))
