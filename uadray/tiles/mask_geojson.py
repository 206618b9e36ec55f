"""Masks as GeoJSON and back, so that people can mend them in QuPath: polygons with holes in level-0 pixels.

Out goes one annotation a class (`Tissue`, `Pen`, ...). Back comes any GeoJSON of polygons: what is classed `Ignore`,
`Exclude` or as an artefact is cut out, what is classed as tissue or not at all is tissue (`mask_classes`). Such files
come from people: bytes, vertices and the work of filling are bounded, and what is not understood is refused.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import shapely

from uadray.errors import SlideError
from uadray.tiles.mask_classes import Meaning, UnclearError, class_names, meaning
from uadray.tiles.tissue import FULL_RESOLUTION_PX, reduction

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
"""[n, 2], x and y, of a ring; closed or not."""
Polygon = list[Points]
"""The outer ring, then holes."""

MAX_BYTES = 64 * 2**20
MAX_VERTICES = 1_000_000
"""Of a file that is read: a slide's tissue takes some 10,000 vertices and 20 bytes each."""

MAX_FILLED_PX = 2**32
MAX_CROSSINGS = 2**28
"""Mask pixels under the boxes of all polygons, and rows that their edges cross: about ten seconds of filling."""

FAR = 1e9
"""Level-0 pixels beyond which a point may as well be here."""

MAX_VERTICES_OUT = 100_000
"""Of a class that is written, about 2 MB; beyond, outlines are simplified until they fit."""

TOLERANCE_PX = 0.75
"""Mask pixels that a simplified outline may stray; not simplified where that changes 1 % of the mask."""

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


def read_mask(
    data: bytes,
    slide_id: str,
    size_level0_px: tuple[int, int],
    shape: tuple[int, int],
    *,
    source: str = "its mask",
    detected: Mask | None = None,
) -> Mask:
    """The tissue that a GeoJSON outlines. A pixel belongs to a polygon that its centre lies in.

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
    budget = {"filled": MAX_FILLED_PX, "crossings": MAX_CROSSINGS, "vertices": MAX_VERTICES}
    where = ""
    try:
        regions: dict[Meaning, list[tuple[int, list[Polygon]]]] = {kind: [] for kind in get_args(Meaning)}
        for number, feature in enumerate(read_features(data), 1):
            where = f", feature {number}"
            shapes = []
            for polygon in polygons(feature):
                _spend(budget, "vertices", sum(map(len, polygon)))
                shapes.append(polygon)
            if shapes:
                regions[meaning(class_names(feature))].append((number, shapes))
        for kind, numbered in regions.items():  # what has no class last: it is judged by where the tissue is
            for number, shapes in numbered:
                where = f", feature {number}"
                is_within = _draw(masks[kind], shapes, scale, budget, within=masks["tissue"])
                if kind == "unnamed" and is_within:
                    raise UnclearError("it has no class and lies within the tissue; name it Ignore* to cut it out")
    except ValueError as error:
        expected = "" if isinstance(error, UnclearError) else "; expected GeoJSON polygons in level-0 pixels"
        raise SlideError(slide_id, "bad_mask", f"{source}{where}: {error}{expected}") from error
    if detected is not None and regions["cut_out"] and not regions["tissue"] and not regions["unnamed"]:
        return detected & ~masks["cut_out"]
    return (masks["tissue"] | masks["unnamed"]) & ~masks["cut_out"]


def read_features(data: bytes) -> list[dict[str, Any]]:
    """The features of a GeoJSON text: of collections, in lists or in each other, or one; a bare geometry is a feature.

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


def _spend(budget: dict[str, int], what: str, amount: int) -> None:
    budget[what] -= amount
    if budget[what] < 0:
        raise ValueError(f"too large: its {what} are more than is read")


def _draw(mask: Mask, shapes: list[Polygon], scale: Points, budget: dict[str, int], *, within: Mask) -> bool:
    """Set what lies inside polygons in level-0 pixels, and tell whether there is any and all of it lies `within`."""
    inside = outside = False
    for polygon in shapes:
        window, filled = _filled(mask.shape, [np.clip(ring, -FAR, FAR) * scale for ring in polygon], budget)
        mask[window] |= filled
        inside |= bool(filled.any())
        outside |= bool((filled & ~within[window]).any())
    return inside and not outside


def _filled(shape: tuple[int, ...], polygon: Polygon, budget: dict[str, int]) -> tuple[tuple[slice, slice], Mask]:
    """A window of a mask, and in it the pixels whose centres lie inside.

    Even-odd: holes, and rings that cross themselves, need no care. Each edge toggles what is right of it in the rows
    whose centres it spans. OpenCV's `fillPoly` would also set all that an outline touches.
    """
    limits = np.array([shape[1], shape[0]])
    points = np.concatenate(polygon)
    left, top = np.clip(np.floor(points.min(0)), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, limits).astype(int)
    window = slice(top, bottom), slice(left, right)
    if right <= left or bottom <= top:
        return window, np.zeros((bottom - top, right - left), np.bool_)
    _spend(budget, "filled", int((right - left) * (bottom - top)))
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)
    _toggle(toggles, points - (left, top), _next_in_ring(polygon), budget)
    return window, (np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) & 1).view(np.bool_)


def _next_in_ring(rings: list[Points]) -> npt.NDArray[np.int64]:
    """Of the points of all rings, one after the other, the index of each one's successor."""
    stops = np.cumsum([len(ring) for ring in rings])
    following = np.arange(1, stops[-1] + 1)
    following[stops - 1] = np.concatenate([[0], stops[:-1]])
    return following


def _toggle(
    toggles: npt.NDArray[np.uint8], points: Points, following: npt.NDArray[np.int64], budget: dict[str, int]
) -> None:
    height, width = toggles.shape
    ends = points[following]
    first, last = (
        np.clip(np.ceil(y - 0.5), 0, height)
        for y in (np.minimum(points[:, 1], ends[:, 1]), np.maximum(points[:, 1], ends[:, 1]))
    )
    counts = (last - first).astype(np.int64)
    _spend(budget, "crossings", int(counts.sum()))
    start = 0
    for stop in [*np.flatnonzero(np.diff(np.cumsum(counts) >> 22)) + 1, len(counts)]:  # about 4 million at a time
        n = counts[start:stop]
        edge = np.repeat(np.arange(start, stop), n)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(n) - n, n)
        share = (row + 0.5 - points[edge, 1]) / (ends[edge, 1] - points[edge, 1])
        x = points[edge, 0] + share * (ends[edge, 0] - points[edge, 0])
        column = np.clip(np.ceil(x - 0.5), 0, width - 1).astype(np.int64)
        np.add.at(toggles, (row.astype(np.int64), column), 1)  # wraps at 256, which is even
        start = stop


def _feature(name: str, mask: Mask, size_level0_px: tuple[int, int]) -> str:
    """One annotation as JSON; its tens of thousands of vertices are written by GEOS, ten times as fast as by Python."""
    step = reduction(mask.size, FULL_RESOLUTION_PX)  # `tissue_mask` knows no more of a larger one
    mask = np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step])
    height, width = mask.shape
    scale = (size_level0_px[0] / width, size_level0_px[1] / height)
    pieces = [piece for polygon in _outlines(mask) for piece in _valid(polygon, scale)]
    whole: Any = shapely.transform(shapely.MultiPolygon(pieces), lambda points: points.round(2))
    colour = list(COLOURS.get(name.lower(), OTHER_COLOUR))
    properties = {"objectType": "annotation", "classification": {"name": name, "color": colour}}
    return f'{{"type":"Feature","geometry":{shapely.to_geojson(whole)},"properties":{json.dumps(properties)}}}'


def _outlines(mask: Mask) -> list[Polygon]:
    """The pieces of a mask, in its pixels, simplified as far as the mask stays the same or vertices are too many."""
    exact, tolerance = _traced(mask), TOLERANCE_PX
    simple = _simplified(exact, tolerance)
    if _vertices(exact) <= MAX_VERTICES_OUT:
        back = np.zeros_like(mask)
        if simple:  # all rings at once: pieces do not overlap
            rings = [ring for polygon in simple for ring in polygon]
            window, filled = _filled(back.shape, rings, {"filled": back.size, "crossings": 2**40})
            back[window] = filled
        return simple if (back & mask).sum() >= 0.99 * (back | mask).sum() else exact
    while _vertices(simple) > MAX_VERTICES_OUT:
        tolerance *= 2
        simple = _simplified(exact, tolerance)
    return simple


def _vertices(pieces: list[Polygon]) -> int:
    return sum(len(ring) for polygon in pieces for ring in polygon)


def _traced(mask: Mask) -> list[Polygon]:
    """Outlines a quarter pixel inside the edges: OpenCV draws through pixel centres, here of the doubled mask."""
    doubled = cv2.resize(mask.view(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    rings, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    polygons_of: dict[int, Polygon] = {}
    points = [(ring[:, 0] + 0.5) / 2 for ring in rings]
    for i, ring in enumerate(points):
        if tree[0, i, 3] < 0:
            polygons_of[i] = [ring]
    for i, ring in enumerate(points):
        if tree[0, i, 3] >= 0:
            polygons_of[int(tree[0, i, 3])].append(ring)
    return list(polygons_of.values())


def _simplified(pieces: list[Polygon], tolerance_px: float) -> list[Polygon]:
    """Without rings that collapse; a piece that does is left out with its holes."""
    kept = []
    for piece in pieces:
        rings = [
            cv2.approxPolyDP(ring.astype(np.float32), tolerance_px, True)[:, 0].astype(np.float64) for ring in piece
        ]
        if len(rings[0]) >= 3:
            kept.append([ring for ring in rings if len(ring) >= 3])
    return kept


def _valid(polygon: Polygon, scale: tuple[float, float]) -> list[Any]:
    """A polygon in level-0 pixels, parted where its rings touch themselves."""
    shape: Any = shapely.Polygon(polygon[0] * scale, [hole * scale for hole in polygon[1:]])
    if not shape.is_valid:
        shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    return [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area > 0]
