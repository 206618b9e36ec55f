"""Regions of abnormal tiles, or all tiles, as GeoJSON that QuPath imports.

QuPath reads a FeatureCollection (docs, "Exporting annotations"; `PathObjectTypeAdapters` in its `qupath.lib.io`). Of a
feature it takes `id`, a UUID; `geometry`, in pixels of the full-resolution image as it shows it; and of `properties`
`objectType`, `name`, `classification` with `name` and `color`, `isLocked`, and `measurements`, a map from names to
numbers. It cuts slides to their bounds (`openslide.bounds-x` ...), so coordinates are moved by these unless
`coordinates` is `level0`.

A region is the union of tiles that score above the threshold and share sides (`regions`). Its UUID follows from slide,
bundle and place, so what is imported twice can be told. `uadray` at the end says what was exported; QuPath leaves it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uadray.exports.exported_slide import ExportedSlide, ExportOptions, boxes_of, finite
from uadray.exports.regions import Region, regions_of

FOLDER, SUFFIX, VERSION = "geojson", ".geojson", 1

MAX_REGIONS = 2000
"""Regions that have a feature of their own, those with the most tiles and, of these, with the highest scores; all
others are one feature. So a slide of 100,000 tiles stays below 5 MB, however its scores lie."""

TOLERANCE = 0.25
"""Of a tile's side: by so much an outline is moved at the most. On a grid without overlap it is not moved at all."""

ANOMALY = {"name": "Anomaly", "color": [200, 30, 30]}
IN_NORMAL = {"name": "High score on a normal slide", "color": [240, 160, 40]}
BELOW = {"name": "Below the threshold", "color": [110, 150, 190]}
NOT_SCORED = {"name": "Not scored", "color": [130, 130, 130]}
"""The classes, and their colours. Normal slides have tiles above the threshold too: 1 % of the calibration's."""


def exported(slide: ExportedSlide, options: ExportOptions) -> bytes:
    """The GeoJSON of a slide.

    Raises:
        InputError: no threshold is known; or the tiles lie on no grid.
    """
    threshold = slide.threshold(options)
    note: dict[str, Any] = {}
    if options.all_tiles:
        features = list(_tiles(slide, options, threshold))
    else:
        features, note = _regions(slide, options, threshold)
    facts = {"slide_id": slide.slide_id, "bundle": slide.name, "threshold": threshold, **_of_slide(slide), **note}
    listed = ",\n".join(features)
    return f'{{"type":"FeatureCollection","features":[\n{listed}\n],"uadray":{_json(facts)}}}\n'.encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _of_slide(slide: ExportedSlide) -> dict[str, Any]:
    names = ("decision", "score", "p_value", "alpha", "calibration_id", "calibration_group", "calibration_holds")
    facts = {name: slide.decision.get(name) for name in (*names, "q_value")}
    facts = {name: finite(value) if isinstance(value, float) else value for name, value in facts.items()}
    return {name: value for name, value in facts.items() if value is not None}


def _class_above(slide: ExportedSlide) -> dict[str, Any]:
    return IN_NORMAL if slide.decision.get("decision") == "normal" else ANOMALY


def _regions(slide: ExportedSlide, options: ExportOptions, threshold: float) -> tuple[list[str], dict[str, Any]]:
    """The features of regions, and what is to be said of them."""
    boxes, scores = slide.scored_boxes()
    above = scores > threshold
    boxes, scores = boxes[above], scores[above]
    side = float(np.median(boxes[:, 2])) if len(boxes) else 0.0
    regions = regions_of(boxes, tolerance_px=TOLERANCE * side)
    highest = [float(scores[region.tiles].max()) for region in regions]
    order = sorted(range(len(regions)), key=lambda place: (-len(regions[place].tiles), -highest[place]))
    alone, together = sorted(order[:MAX_REGIONS], key=lambda place: -highest[place]), order[MAX_REGIONS:]
    name = _Names(slide)
    of_class = _class_above(slide)
    features = [
        _feature(name.at(*boxes[regions[place].tiles[0], :2]), f"Region {number}", of_class, slide, options,
                 [regions[place]], scores[regions[place].tiles])
        for number, place in enumerate(alone, 1)
    ]  # fmt: skip
    if together:
        small = [regions[place] for place in together]
        tiles = np.concatenate([region.tiles for region in small])
        title = f"{len(small)} smaller regions"
        features.append(_feature(name.of("smaller regions"), title, of_class, slide, options, small, scores[tiles]))
    return features, {"tiles_above": len(scores), "regions": len(regions)}


def _feature(
    uuid: str, title: str, of_class: dict[str, Any], slide: ExportedSlide, options: ExportOptions,
    regions: Sequence[Region], scores: npt.NDArray[np.float64],
) -> str:  # fmt: skip
    """One region, or several as a MultiPolygon, with its measurements."""
    origin = slide.origin(options)
    polygons = [[(ring - origin).tolist() for ring in region.rings] for region in regions]
    measurements = {"Tiles": len(scores), "Mean score": _short(scores.mean()), "Max score": _short(scores.max())}
    if slide.mpp_level0 is not None:
        area_mm2 = sum(region.area_px for region in regions) * slide.mpp_level0**2 / 1e6
        measurements["Area mm^2"] = _short(area_mm2)
    for label, column in (("Slide p-value", "p_value"), ("Slide score", "score")):
        value = finite(slide.decision.get(column))
        if value is not None:
            measurements[label] = _short(value)
    geometry = {"type": "Polygon", "coordinates": polygons[0]}
    if len(regions) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
    properties = {
        "objectType": "annotation", "name": title, "classification": of_class, "isLocked": True,
        "measurements": measurements,
    }  # fmt: skip
    return _json({"type": "Feature", "id": uuid, "geometry": geometry, "properties": properties})


def _short(value: float) -> float:
    """Six digits: what measurements are shown with."""
    return float(f"{value:.6g}")


def _tiles(slide: ExportedSlide, options: ExportOptions, threshold: float) -> Iterator[str]:
    """The features of all tiles, row by row; of those without a score too."""
    boxes, scores = boxes_of(slide.tiles), slide.tiles["score"].to_numpy()
    order = np.lexsort((boxes[:, 0], boxes[:, 1]))
    shares = slide.normal_share(scores)
    shown = [f', "Normal tiles below":{share:.4g}' for share in shares[order]] if shares is not None else None
    flags = slide.tiles["flag"].take(order).to_pylist()
    name = _Names(slide)
    above, below = (
        f'"properties":{{"objectType":"tile","isLocked":true,"classification":{_json(of_class)},"measurements":{{'
        for of_class in (_class_above(slide), BELOW)
    )
    moved = boxes[order] - (*slide.origin(options), 0, 0)
    places = zip(boxes[order, :2].tolist(), moved.tolist(), scores[order].tolist(), flags, strict=True)
    for number, ((x0, y0), (x, y, width, height), score, flag) in enumerate(places):
        right, low = x + width, y + height
        ring = f"[[[{x},{y}],[{right},{y}],[{right},{low}],[{x},{low}],[{x},{y}]]]"
        head = f'{{"type":"Feature","id":"{name.at(x0, y0)}","geometry":{{"type":"Polygon","coordinates":{ring}}},'
        if score == score:
            share = "" if shown is None else shown[number]
            yield f'{head}{above if score > threshold else below}"Score":{score:.6g}{share}}}}}}}'
        else:
            title = _json(NOT_SCORED | {"name": f"Not scored: {flag}" if flag else NOT_SCORED["name"]})
            yield f'{head}"properties":{{"objectType":"tile","isLocked":true,"classification":{title}}}}}'


class _Names:
    """UUIDs of a slide's objects. A hash of slide and bundle, and the place: version 8 of RFC 9562 (custom)."""

    def __init__(self, slide: ExportedSlide) -> None:
        self._key = f"{slide.slide_id}\0{slide.name}\0"
        digest = hashlib.blake2b(self._key.encode(), digest_size=8).hexdigest()
        self._head = f"{digest[:8]}-{digest[8:12]}-8{digest[12:15]}"

    def at(self, x_level0_px: int, y_level0_px: int) -> str:
        """Of what lies there. Places have 31 bits; of x and y together 62 fit, of which 60 are used: 2^30 px a side."""
        low = int(x_level0_px) << 30 | int(y_level0_px)
        return f"{self._head}-{0x8000 | low >> 48:04x}-{low & 0xFFFFFFFFFFFF:012x}"

    def of(self, what: str) -> str:
        """Of what lies at no place."""
        digest = hashlib.blake2b((self._key + what).encode(), digest_size=6).hexdigest()
        return f"{self._head}-bfff-{digest}"
