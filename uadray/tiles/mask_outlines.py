"""Masks -> GeoJSON of their outlines, one annotation a class (`Tissue`, `Pen`, ...), which people edit in QuPath."""

import json
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import shapely

from uadray.tiles.outline_links import unlinked
from uadray.tiles.polygon_fill import Budget, Mask, Polygon, filled
from uadray.tiles.tissue import FULL_RESOLUTION_PX, reduction

MAX_VERTICES_OUT = 100_000
"""Of a class, about 2 MB; where there are more, outlines are simplified until they fit."""

TOLERANCE_PX = 0.75
"""Mask pixels by which a simplified outline may differ; outlines are not simplified where that changes 1 % of the
mask."""

COLOURS = {"tissue": (46, 160, 67), "pen": (31, 111, 235), "fold": (219, 154, 4), "air": (0, 181, 204)}
OTHER_COLOUR = (207, 34, 46)
"""RGB of a class, as QuPath shows it."""


def write_masks(masks: Mapping[str, Mask], size_level0_px: tuple[int, int]) -> bytes:
    """A QuPath FeatureCollection: one annotation for each class that is true anywhere.

    Args:
        masks: by class (`Tissue`, `Pen`, ...), [h, w] of the whole slide, each of any resolution.
        size_level0_px: width and height of the slide.
    """
    features = ",".join(_feature(name, mask, size_level0_px) for name, mask in masks.items() if mask.any())
    return f'{{"type":"FeatureCollection","features":[{features}]}}'.encode()


def _feature(name: str, mask: Mask, size_level0_px: tuple[int, int]) -> str:
    """One annotation as JSON. GEOS writes its tens of thousands of vertices ten times as fast as Python does."""
    step = reduction(mask.size, FULL_RESOLUTION_PX)  # the resolution at which `tissue_mask` works
    mask = np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step])
    height, width = mask.shape
    scale = (size_level0_px[0] / width, size_level0_px[1] / height)
    pieces = _valid(_outlines(mask), scale)
    area: Any = shapely.transform(shapely.MultiPolygon(pieces), lambda points: points.round(2))
    colour = list(COLOURS.get(name.lower(), OTHER_COLOUR))
    properties = {"objectType": "annotation", "classification": {"name": name, "color": colour}}
    return f'{{"type":"Feature","geometry":{shapely.to_geojson(area)},"properties":{json.dumps(properties)}}}'


def _outlines(mask: Mask) -> list[Polygon]:
    """The pieces of a mask, in its pixels, simplified as far as the mask stays the same, or until they fit."""
    exact, tolerance = _traced(mask), TOLERANCE_PX
    simple = _simplified(exact, tolerance)
    if _vertices(exact) <= MAX_VERTICES_OUT:
        back = np.zeros_like(mask)
        if simple:  # pieces do not overlap, so that all rings can be filled together
            rings = [ring for polygon in simple for ring in polygon]
            box, inside = filled(back.shape, rings, Budget(filled=back.size, crossings=2**40))
            back[box] = inside
        is_same = np.count_nonzero(back & mask) >= 0.99 * np.count_nonzero(back | mask)
        return simple if is_same else unlinked(exact, 0.5)
    while _vertices(simple) > MAX_VERTICES_OUT:
        tolerance *= 2
        simple = _simplified(exact, tolerance)
    return simple


def _vertices(pieces: list[Polygon]) -> int:
    return sum(len(ring) for polygon in pieces for ring in polygon)


def _traced(mask: Mask) -> list[Polygon]:
    """The outlines of a mask, a quarter pixel inside its edges.

    OpenCV draws through the centres of pixels, here of the mask at double resolution.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    inner = mask[top : top + height, left : left + width].view(np.uint8)
    doubled = cv2.resize(inner, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    rings, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    polygons_of: dict[int, Polygon] = {}
    points = [(ring[:, 0] + 0.5) / 2 + (left, top) for ring in rings]
    for i, ring in enumerate(points):
        if tree[0, i, 3] < 0:
            polygons_of[i] = [ring]
    for i, ring in enumerate(points):
        if tree[0, i, 3] >= 0:
            polygons_of[int(tree[0, i, 3])].append(ring)
    return list(polygons_of.values())


def _simplified(pieces: list[Polygon], tolerance_px: float) -> list[Polygon]:
    """The pieces with fewer vertices, without rings that collapse; a piece whose outer ring collapses is left out."""
    kept = []
    for piece in pieces:
        rings = [
            cv2.approxPolyDP(ring.astype(np.float32), tolerance_px, True)[:, 0].astype(np.float64) for ring in piece
        ]
        if len(rings[0]) >= 3:
            kept.append([ring for ring in rings if len(ring) >= 3])
    return kept


def _valid(polygons: list[Polygon], scale: tuple[float, float]) -> list[Any]:
    """Polygons in level-0 pixels, divided where their rings touch themselves."""
    rings = [ring for polygon in polygons for ring in polygon]
    if not rings:
        return []
    of_ring = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    of_polygon = np.repeat(np.arange(len(polygons)), [len(polygon) for polygon in polygons])
    lines: Any = shapely.linearrings(np.concatenate(rings) * scale, indices=of_ring)
    shapes: Any = shapely.polygons(lines, indices=of_polygon)
    is_valid = shapely.is_valid(shapes)
    shapes[~is_valid] = shapely.make_valid(shapes[~is_valid], method="structure", keep_collapsed=False)
    parts = shapely.get_parts(shapes)
    return list(parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > 0)])
