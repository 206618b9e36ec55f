"""Outlines of lesions (GeoJSON, level-0 pixels) -> which tiles are anomalous."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from uadray.errors import InputError
from uadray.storage import objects
from uadray.tiles.mask_geojson import read_features

ANOMALOUS_OVERLAP = 0.5
"""A tile at least half inside an outline is anomalous; one that an outline covers less is left out."""


def read_outlines(uri: str) -> Any | None:
    """The union of all polygons of a GeoJSON file, in level-0 pixels; None where there is no file.

    Raises:
        InputError: the file is not GeoJSON.
    """
    if not objects.exists(uri):
        return None
    try:
        features = read_features(objects.read_bytes(uri))
        shapes = [shapely.make_valid(shapely.geometry.shape(feature["geometry"])) for feature in features]
        return shapely.union_all([s for s in shapes if s.area > 0])
    except (ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise InputError(f"outlines {uri}: not GeoJSON polygons: {error}") from error


def tile_truth(tiles: pa.Table, outline: Any) -> npt.NDArray[np.int8]:
    """The truth about each tile [n]: 1 anomalous, 0 normal, -1 partly inside an outline and left out."""
    x, y, w, h = (
        tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px", "width_level0_px", "height_level0_px")
    )
    boxes = shapely.box(x, y, x + w, y + h)
    inside = shapely.area(shapely.intersection(boxes, outline)) / (w * h)
    return np.where(inside >= ANOMALOUS_OVERLAP, 1, np.where(inside > 1e-6, -1, 0)).astype(np.int8)


def outline_uri(slide_uri: str, slide_id: str, folder: str | None) -> str:
    """The URI of a slide's outlines: beside the slide, under its file's name, or `<folder>/<slide_id>.geojson`.

    >>> outline_uri("a/b.tif", "b", None), outline_uri("a/b.tif", "s1", "c")
    ('a/b.geojson', 'c/s1.geojson')
    """
    if folder is not None:
        return objects.join(folder, f"{slide_id}.geojson")
    stem, _, _ = slide_uri.rpartition(".")
    return f"{stem}.geojson"


def any_outline(uris: Sequence[str]) -> bool:
    """True where one of these files exists. Where none does, nothing was outlined, and no tile has a truth."""
    return any(objects.exists(uri) for uri in uris)
