"""The pictures and outlines that a screening has kept of a slide: out of its evidence sheet, or files of older folders.

What lies in the folder is not trusted to be what was written: sizes are bounded, a picture is a JPEG or none, and of an
outline only polygons, their class and its colour are told.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from uadray.errors import NotFoundError
from uadray.reports.evidence_sheet import evidence_sheet
from uadray.serving.views.screenings import Screening, UsedBundle
from uadray.storage import objects

MAX_SHEET_BYTES = 32 * 2**20
MAX_LAYERS_BYTES = 64 * 2**20

_NAMED = (
    r'<view id="%s" viewBox="[-0-9. ]{1,80}"/><image [^<>]{0,200}? href="data:image/jpeg;base64,([A-Za-z0-9+/=]+)"/>'
)
_JPEG = b"\xff\xd8\xff"
_FIRST_TILES = 16


def picture(screening: Screening, bundle: UsedBundle, record: Mapping[str, Any], name: str) -> bytes:
    """A picture of a slide as JPEG.

    Args:
        screening: of the slide.
        bundle: whose picture it is.
        record: its decision.
        name: `thumbnail`, `heatmap`, `tile_0`, ...

    Raises:
        NotFoundError: there is none.
    """
    missing = NotFoundError(f"the screening has no {name} of this slide")
    if record.get("pictures"):
        data = picture_in(sheet(screening, bundle, record), name)
    else:
        data = _older_picture(screening, bundle, record["slide_id"], name) or b""
    if not data.startswith(_JPEG):
        raise missing
    return data


def picture_in(sheet: bytes, name: str) -> bytes:
    """A picture of an evidence sheet, by its name; empty where it has none of this name."""
    found = re.search(_NAMED % re.escape(name), sheet.decode("utf-8", "replace"))
    return _decoded(found[1]) if found else b""


def sheet(screening: Screening, bundle: UsedBundle, record: Mapping[str, Any]) -> bytes:
    """All pictures of a slide, as one SVG; of older folders it is put together here.

    Raises:
        NotFoundError: there is none.
    """
    slide_id = record["slide_id"]
    if record.get("pictures"):
        return objects.read_bytes(screening.path(bundle, "evidence", f"{slide_id}.svg"), max_bytes=MAX_SHEET_BYTES)
    n_tiles = min(_FIRST_TILES, len(json.loads(record.get("evidence") or "[]")))
    names = ["thumbnail", "heatmap", *(f"{kind}_{i}" for i in range(n_tiles) for kind in ("tile", "reconstruction"))]
    found = {name: _older_picture(screening, bundle, slide_id, name) for name in names}
    pictures = {name: data for name, data in found.items() if data}
    if not pictures:
        raise NotFoundError("the screening has no pictures of this slide")
    size = (record["width_level0_px"] or 1, record["height_level0_px"] or 1)
    return evidence_sheet(pictures, sizes=dict.fromkeys(("thumbnail", "heatmap"), size))


def layers(screening: Screening, slide_id: str) -> bytes:
    """The outlines of a slide's tissue and flagged regions, GeoJSON in level-0 pixels; each has its `class`.

    People edit these files: of one that is no GeoJSON, or has a coordinate that is no number, nothing is told.
    """
    try:
        data = objects.read_bytes(_layers_uri(screening, slide_id), max_bytes=MAX_LAYERS_BYTES)
        found = [each for each in map(_layer, json.loads(data).get("features", [])) if each is not None]
        return json.dumps({"type": "FeatureCollection", "features": found}, allow_nan=False).encode()
    except (NotFoundError, ValueError, AttributeError, TypeError, RecursionError):
        return b'{"type": "FeatureCollection", "features": []}'


def has_layers(screening: Screening, slide_id: str) -> bool:
    """Whether there are any: a slide without tissue has no file of them."""
    return objects.exists(_layers_uri(screening, slide_id))


def _layers_uri(screening: Screening, slide_id: str) -> str:
    return objects.join(screening.out, "masks", f"{slide_id}.geojson")


def _layer(feature: Any) -> dict[str, Any] | None:
    """An outline with nothing but its class and colour; None of what is no outline."""
    try:
        geometry, said = feature["geometry"], (feature.get("properties") or {}).get("classification") or {}
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            return None
        colour = said.get("color")
        is_colour = (
            isinstance(colour, list) and len(colour) == 3 and all(type(c) is int and 0 <= c < 256 for c in colour)
        )
        properties = {"class": str(said.get("name") or "Tissue")[:80], "colour": colour if is_colour else None}
        outline = {"type": geometry["type"], "coordinates": geometry["coordinates"]}
    except (KeyError, TypeError, AttributeError):
        return None
    return {"type": "Feature", "geometry": outline, "properties": properties}


def _older_picture(screening: Screening, bundle: UsedBundle, slide_id: str, name: str) -> bytes | None:
    """A picture that is a file; of several bundles one thumbnail serves all."""
    folders = [screening.path(bundle, "evidence", slide_id), objects.join(screening.out, "evidence", slide_id)]
    for folder in dict.fromkeys(folders):
        try:
            return objects.read_bytes(objects.join(folder, f"{name}.jpg"), max_bytes=MAX_SHEET_BYTES)
        except NotFoundError:
            continue
    return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
