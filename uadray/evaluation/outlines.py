"""Outlines of lesions (level-0 pixels) -> which tiles are anomalous.

Outlines are GeoJSON as QuPath writes it, annotations of Camelyon16 (`evaluation.camelyon`), or masks of the whole slide
as PNG.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from uadray.errors import InputError
from uadray.evaluation import camelyon
from uadray.storage import objects
from uadray.tiles.mask_geojson import read_features
from uadray.tiles.polygon_fill import Mask

ANOMALOUS_OVERLAP = 0.5
"""A tile at least half inside an outline is anomalous; one that an outline covers less is left out."""


SUFFIXES = (".geojson", ".xml", ".json", ".png")
"""Of files of outlines, in the order in which they are looked for."""

MAX_BYTES = 64 * 2**20

MAX_MASK_PX = 2**27
MAX_RUNS = 1_000_000
"""Of a mask: pixels, and runs of pixels in its rows."""


def read_outlines(uri: str, *, size_level0_px: tuple[int, int] | None = None) -> Any | None:
    """The union of all polygons of a file, in level-0 pixels; None where there is no file.

    Args:
        uri: of GeoJSON, of annotations of Camelyon16 as `.xml` or `.json`, or of a mask as `.png`.
        size_level0_px: width and height of the slide, for masks.

    Raises:
        InputError: the file is none of these, or too large.
    """
    if not objects.exists(uri):
        return None
    expected = "not GeoJSON polygons"
    try:
        data = objects.read_bytes(uri, max_bytes=MAX_BYTES)
        match uri.lower().rpartition(".")[2]:
            case "xml":
                expected = "not annotations of Camelyon16"
                return camelyon.read_xml(data)
            case "png":
                expected = "not a mask"
                return _of_mask(data, size_level0_px)
            case "json" if camelyon.is_camelyon(json.loads(data)):
                expected = "not annotations of Camelyon16"
                return camelyon.read_json(data)
        features = read_features(data)
        shapes = [shapely.make_valid(shapely.geometry.shape(feature["geometry"])) for feature in features]
        return shapely.union_all([s for s in shapes if s.area > 0])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, shapely.errors.ShapelyError) as error:
        raise InputError(f"outlines {uri}: {expected}: {error}") from error


def _of_mask(data: bytes, size_level0_px: tuple[int, int] | None) -> Any:
    """The outline of what is not 0 in a picture of the whole slide."""
    if size_level0_px is None:
        raise ValueError("the size of its slide is not known")
    width, height = (int.from_bytes(data[i : i + 4]) for i in (16, 20))  # of a PNG's header
    if width * height > MAX_MASK_PX:
        raise ValueError(f"{width} x {height} px, at most {MAX_MASK_PX:,} are read")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("no PNG that can be read")
    mask = picture[..., :3].any(axis=2) if picture.ndim == 3 else picture > 0
    return mask_outline(mask, size_level0_px)


def mask_outline(mask: Mask, size_level0_px: tuple[int, int]) -> Any:
    """The outline of the pixels [h, w] of a mask of the whole slide, in level-0 pixels: exactly their area.

    Raises:
        ValueError: it is too ragged.
    """
    changes = np.diff(mask.astype(np.int8), axis=1, prepend=0, append=0)
    (row, start), (_, stop) = np.nonzero(changes == 1), np.nonzero(changes == -1)
    if len(row) > MAX_RUNS:
        raise ValueError(f"{len(row):,} runs of pixels, at most {MAX_RUNS:,} are read")
    x, y = size_level0_px[0] / mask.shape[1], size_level0_px[1] / mask.shape[0]
    return shapely.union_all(shapely.box(start * x, row * y, stop * x, (row + 1) * y))


def tile_truth(tiles: pa.Table, outline: Any) -> npt.NDArray[np.int8]:
    """The truth about each tile [n]: 1 anomalous, 0 normal, -1 partly inside an outline and left out."""
    x, y, w, h = (
        tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px", "width_level0_px", "height_level0_px")
    )
    inside = shared_area(np.asarray(shapely.box(x, y, x + w, y + h)), outline) / (w * h)
    return np.where(inside >= ANOMALOUS_OVERLAP, 1, np.where(inside > 1e-6, -1, 0)).astype(np.int8)


def shared_area(boxes: npt.NDArray[Any], outline: Any) -> npt.NDArray[np.float64]:
    """The area [n] that boxes share with polygons that do not overlap.

    Most boxes lie wholly inside or outside, which is told at once; only the others are cut.
    """
    shapely.prepare(outline)
    shared, near = np.zeros(len(boxes)), np.flatnonzero(shapely.intersects(boxes, outline))
    is_whole = shapely.covers(outline, boxes[near])
    shared[near[is_whole]] = shapely.area(boxes[near[is_whole]])
    edge, pieces = near[~is_whole], shapely.get_parts(outline)
    box, piece = shapely.STRtree(pieces).query(boxes[edge], predicate="intersects")
    np.add.at(shared, edge[box], shapely.area(shapely.intersection(boxes[edge[box]], pieces[piece])))
    return shared


def outline_uri(slide_uri: str, slide_id: str, folder: str | None) -> str:
    """The URI of a slide's outlines: beside the slide, under its file's name, or `<folder>/<slide_id>.geojson`.

    >>> outline_uri("a/b.tif", "b", None), outline_uri("a/b.tif", "s1", "c")
    ('a/b.geojson', 'c/s1.geojson')
    """
    if folder is not None:
        return objects.join(folder, f"{slide_id}.geojson")
    stem, _, _ = slide_uri.rpartition(".")
    return f"{stem}.geojson"


def outline_uris(slides: Mapping[str, str], folder: str | None) -> dict[str, str]:
    """Where the outlines of slides are, whatever their form; where a slide has none, where its GeoJSON would be.

    Args:
        slides: URI by slide id.
        folder: of the outlines, `<slide_id>.*`, in upper or lower case; beside the slides where it is not given.
    """
    if folder is None:
        return {slide_id: _beside(uri) for slide_id, uri in slides.items()}
    there: dict[str, str] = {}
    for info in objects.list_objects(folder, suffixes=SUFFIXES):
        stem, _, suffix = objects.name(info.uri).rpartition(".")
        known = there.get(stem.casefold(), "")
        if not known or _rank(suffix) < _rank(known.rpartition(".")[2]):
            there[stem.casefold()] = info.uri
    return {
        slide_id: there.get(slide_id.casefold(), outline_uri(uri, slide_id, folder)) for slide_id, uri in slides.items()
    }


def sized(width: int | None, height: int | None) -> tuple[int, int] | None:
    """The size of a slide in level-0 pixels; None where a part of it is not known."""
    return (int(width), int(height)) if width and height else None


def _rank(suffix: str) -> int:
    return SUFFIXES.index(f".{suffix.lower()}")


def _beside(slide_uri: str) -> str:
    """The outline beside a slide; masks are not looked for there, since pictures of other things may lie there."""
    stem = slide_uri.rpartition(".")[0]
    return next((stem + suffix for suffix in SUFFIXES[:-1] if objects.exists(stem + suffix)), f"{stem}.geojson")


def any_outline(uris: Sequence[str]) -> bool:
    """True where one of these files exists. Where none does, nothing was outlined, and no tile has a truth."""
    return any(objects.exists(uri) for uri in uris)
