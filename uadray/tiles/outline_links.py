"""Outlines that touch themselves -> outlines that do not.

OpenCV takes pixels that only meet at a corner as one piece, whose outline crosses from one to the other and back by the
same edge, a link. GEOS can divide such a polygon (`make_valid`), but takes all of it apart, which for the tissue of a
slide takes longer than all the rest. Here both directions of each link are taken out, and the ends joined.
"""

import cv2
import numpy as np
import shapely

from uadray.tiles.polygon_fill import Points, Polygon, next_in_ring


def unlinked(polygons: list[Polygon], link: float) -> list[Polygon]:
    """The pieces that polygons consist of where they are cut at their links.

    Args:
        polygons: outlines that keep what they surround on the same side: holes run the other way round.
        link: width and height of a link; edges of this size that run only one way are none.
    """
    pieces = []
    for polygon, partner in zip(polygons, _links(polygons, link), strict=True):
        pieces += _divided(_rejoined(polygon, partner)) if partner else [polygon]
    return pieces


def _divided(rings: list[Points]) -> list[Polygon]:
    """Polygons of these rings, in which holes run the other way round than outer rings."""
    areas = [cv2.contourArea(ring.astype(np.float32), oriented=True) for ring in rings]
    sign = 1 if max(areas, key=abs) > 0 else -1  # the largest ring is an outer one
    outer = [ring for ring, area in zip(rings, areas, strict=True) if sign * area > 0]
    holes = [ring for ring, area in zip(rings, areas, strict=True) if sign * area < 0]
    pieces = [[ring] for ring in outer]
    if len(pieces) == 1:
        return [[*outer, *holes]]
    shapes = [shapely.Polygon(ring) for ring in outer]
    size = shapely.area(shapes)
    for hole in holes:
        around = np.flatnonzero(shapely.intersects_xy(shapes, *hole[0]))
        pieces[min(around, key=lambda i: size[i])].append(hole)
    return pieces


_Edge = tuple[int, int]
"""Ring, and the vertex that the edge begins at."""


def _links(polygons: list[Polygon], link: float) -> list[dict[_Edge, _Edge]]:
    """For each polygon, each direction of each link -> the other direction."""
    partners: list[dict[_Edge, _Edge]] = [{} for _ in polygons]
    rings = [(number, at, ring) for number, polygon in enumerate(polygons) for at, ring in enumerate(polygon)]
    if not rings:
        return partners
    points, following = np.concatenate([ring for *_, ring in rings]), next_in_ring([ring for *_, ring in rings])
    edges = np.flatnonzero((np.abs(points[following] - points) == link).all(1))
    middles = np.rint((points[edges] + points[following[edges]]) / link).astype(np.int64) @ (1, 2**32)
    order = np.argsort(middles, kind="stable")
    twice = np.flatnonzero(np.diff(middles[order]) == 0)  # both directions have the same middle
    starts = np.cumsum([0, *(len(ring) for *_, ring in rings)])
    for edge, back in zip(edges[order[twice]], edges[order[twice + 1]], strict=True):
        one, other = np.searchsorted(starts, (edge, back), "right") - 1
        number, ring, _ = rings[one]
        there, here = (ring, int(edge - starts[one])), (rings[other][1], int(back - starts[other]))
        partners[number][there], partners[number][here] = here, there
    return partners


def _rejoined(polygon: Polygon, partner: dict[_Edge, _Edge]) -> list[Points]:
    """The rings without their links: where one direction of a link begins, what followed the other one goes on."""
    cuts: dict[int, list[int]] = {}
    for number, at in sorted(partner):
        cuts.setdefault(number, []).append(at)
    rings = [ring for number, ring in enumerate(polygon) if number not in cuts]
    parts: dict[_Edge, Points] = {}  # by the edge at which each ends, without its first vertex
    after: dict[_Edge, _Edge] = {}  # the edge at which the part that follows this edge ends
    for number, places in cuts.items():
        ring = polygon[number]
        for before, at in zip([places[-1], *places[:-1]], places, strict=True):
            stop = at if at > before else at + len(ring)
            parts[number, at] = ring[np.arange(before + 2, stop + 1) % len(ring)]
            after[number, before] = (number, at)
    while parts:
        edge, joined = next(iter(parts)), []
        while edge in parts:
            joined.append(parts.pop(edge))
            edge = after[partner[edge]]
        ring = np.concatenate(joined)
        if len(ring) >= 3:
            rings.append(ring)
    return rings
