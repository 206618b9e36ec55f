"""A GeoJSON of outlines that people drew or edited -> a tissue mask.

Any GeoJSON of polygons in level-0 pixels is read: regions classed `Ignore`, `Exclude` or as an artefact are cut out,
regions classed as tissue or without a class are tissue (`mask_classes`). Bytes, vertices and the work of filling are
bounded, and what is not understood is refused.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np

from uadray.errors import SlideError
from uadray.tiles.mask_classes import Meaning, UnclearError, class_names, meaning
from uadray.tiles.polygon_fill import Budget, Mask, Points, Polygon, filled

MAX_BYTES = 64 * 2**20
MAX_VERTICES = 1_000_000
"""Of a file: the tissue of a slide takes some 10,000 vertices of 20 bytes each."""

MAX_FILLED_PX = 2**32
MAX_CROSSINGS = 2**28
"""Mask pixels under the boxes of all polygons, and rows that their edges cross: about ten seconds of filling."""

FAR = 1e9
"""Points further away, in level-0 pixels, are moved to here."""


def read_mask(
    data: bytes,
    slide_id: str,
    size_level0_px: tuple[int, int],
    shape: tuple[int, int],
    *,
    source: str = "its mask",
    detected: Mask | None = None,
) -> Mask:
    """The tissue that a GeoJSON outlines. A pixel belongs to the polygons that its centre lies in.

    Args:
        data: FeatureCollections, Features or bare geometries, UTF-8; Polygon and MultiPolygon, level-0 pixels.
        slide_id: the slide, for errors.
        size_level0_px: width and height of the slide; what lies outside is cut off.
        shape: height and width of the mask.
        source: names the file in errors.
        detected: [h, w], the tissue of the thumbnail, from which a file that only says what to cut out is taken.

    Returns:
        bool [h, w].

    Raises:
        SlideError: reason `bad_mask`: no GeoJSON, another geometry, a coordinate that is no number, a class that is not
            understood, a region without class within the tissue, or too large.
    """
    masks = {kind: np.zeros(shape, np.bool_) for kind in get_args(Meaning)}
    scale = np.array([shape[1] / size_level0_px[0], shape[0] / size_level0_px[1]])
    budget = Budget(filled=MAX_FILLED_PX, crossings=MAX_CROSSINGS, vertices=MAX_VERTICES)
    place = ""
    try:
        regions: dict[Meaning, list[tuple[int, list[Polygon]]]] = {kind: [] for kind in get_args(Meaning)}
        for number, feature in enumerate(read_features(data), 1):
            place = f", feature {number}"
            shapes = []
            for polygon in polygons(feature):
                budget.spend("vertices", sum(map(len, polygon)))
                shapes.append(polygon)
            if shapes:
                regions[meaning(class_names(feature))].append((number, shapes))
        for kind, numbered in regions.items():  # regions without a class come last, and are compared with the tissue
            for number, shapes in numbered:
                place = f", feature {number}"
                is_within = _draw(masks[kind], shapes, scale, budget, within=masks["tissue"])
                if kind == "unnamed" and is_within:
                    raise UnclearError("it has no class and lies within the tissue; name it Ignore* to cut it out")
    except ValueError as error:
        expected = "" if isinstance(error, UnclearError) else "; expected GeoJSON polygons in level-0 pixels"
        raise SlideError(slide_id, "bad_mask", f"{source}{place}: {error}{expected}") from error
    if detected is not None and regions["cut_out"] and not regions["tissue"] and not regions["unnamed"]:
        return detected & ~masks["cut_out"]
    return (masks["tissue"] | masks["unnamed"]) & ~masks["cut_out"]


def _draw(mask: Mask, shapes: list[Polygon], scale: Points, budget: Budget, *, within: Mask) -> bool:
    """Set what lies inside polygons in level-0 pixels; tells whether this is any pixel at all, and all lie `within`."""
    inside = outside = False
    for polygon in shapes:
        box, pixels = filled(mask.shape, [np.clip(ring, -FAR, FAR) * scale for ring in polygon], budget)
        mask[box] |= pixels
        inside |= bool(pixels.any())
        outside |= bool((pixels & ~within[box]).any())
    return inside and not outside


def read_features(data: bytes) -> list[dict[str, Any]]:
    """The features of a GeoJSON text: of collections, which may lie in lists or in each other, or a single one.

    A bare geometry counts as a feature.

    Raises:
        ValueError: no GeoJSON, or more than `MAX_BYTES`.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes, at most {MAX_BYTES:,} are read")
    try:
        values = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    waiting, features = values[::-1] if isinstance(values, list) and values else [values], []
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict):
            raise ValueError(f"an object expected, found {type(value).__name__}")
        if value.get("type") == "FeatureCollection":
            if not isinstance(value.get("features"), list):
                raise ValueError("a FeatureCollection without a list of features")
            waiting += value["features"][::-1]
        else:
            is_feature = value.get("type") == "Feature"
            features.append(value if is_feature else {"type": "Feature", "geometry": value, "properties": {}})
    return features


def polygons(feature: Mapping[str, Any]) -> Iterator[Polygon]:
    """The polygons of a feature; a feature without geometry has none.

    Raises:
        ValueError: another geometry, or a ring that is no list of at least three finite points.
    """
    waiting = [feature.get("geometry")] if feature.get("geometry") is not None else []
    while waiting:
        geometry = waiting.pop()
        kind: Any = ""
        values: Any = None
        if isinstance(geometry, dict):
            kind = geometry.get("type")
            values = geometry.get("geometries" if kind == "GeometryCollection" else "coordinates")
        if kind == "GeometryCollection":
            waiting += _listed(values)
        elif kind in ("Polygon", "MultiPolygon"):
            for rings in [values] if kind == "Polygon" else _listed(values):
                if _listed(rings):
                    yield [_ring(ring) for ring in rings]
        else:
            raise ValueError(f"geometry {kind!r} is no area")


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError("coordinates are not a list")
    return values


def _ring(values: Any) -> Points:
    try:
        points = np.array([(point[0], point[1]) for point in _listed(values)], dtype=np.float64)
    except (TypeError, IndexError, KeyError, ValueError, OverflowError) as error:
        raise ValueError("a ring is not a list of [x, y]") from error
    if points.shape[0] < 3 or points.ndim != 2:
        raise ValueError("a ring of fewer than three points")
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not a finite number")
    return points
