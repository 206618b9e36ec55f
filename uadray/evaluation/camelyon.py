"""Annotations of Camelyon16 -> outlines: the XML files of the data set, and the JSON that code for it often takes.

The data set's README says what its groups mean: `_0`, `_1` and `Tumor` are lesions, `_2` and `Exclusion` are parts of
these that are none. JSON has the same as `positive` and `negative`. Vertices are level-0 pixels.
"""

import csv
import io
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
import shapely

from uadray.tiles.polygon_fill import Points

LESIONS = frozenset({"_0", "_1", "tumor", "metastases"})
NO_LESIONS = frozenset({"_2", "exclusion", "normal", "none"})
"""Groups of annotations, in lower case; `metastases` and `normal` are Camelyon17's."""

MAX_BYTES = 64 * 2**20
MAX_VERTICES = 1_000_000
"""Of a file; the largest of the data set have some 50,000."""

LABELS = {
    "normal": "normal", "negative": "normal", "tumor": "tumor", "itc": "tumor", "micro": "tumor", "macro": "tumor",
}  # fmt: skip
"""What a reference says of a slide, in lower case, and its label."""

MAX_ROWS = 100_000


def read_json(data: bytes) -> Any:
    """The outline in a JSON text `{"positive": [{"vertices": [[x, y], ...]}, ...], "negative": [...]}`.

    Returns:
        A geometry in level-0 pixels: lesions without what is cut out of them.

    Raises:
        ValueError: it is something else, or too large.
    """
    values = _loaded(data)
    if not is_camelyon(values):
        raise ValueError("expected lists 'positive' and 'negative' of polygons")
    rings = {kind: [_ring(each) for each in values.get(kind) or []] for kind in ("positive", "negative")}
    return _outline(rings["positive"], rings["negative"])


def is_camelyon(values: Any) -> bool:
    """Whether a JSON value is of this form."""
    return isinstance(values, dict) and isinstance(values.get("positive"), list) and \
        isinstance(values.get("negative", []), list)  # fmt: skip


def read_xml(data: bytes) -> Any:
    """The outline in an XML file as ASAP writes it; returns and raises as `read_json`.

    It is read by expat from the start to the end; a file that declares entities of its own is refused.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes, at most {MAX_BYTES:,} are read")
    kinds: list[bool | None] = []
    rings: list[list[tuple[float, float, float]]] = []
    n_vertices = 0

    def start(tag: str, values: dict[str, str]) -> None:
        nonlocal n_vertices
        if tag == "Annotation":
            kinds.append(_kind(values))
            rings.append([])
        elif tag == "Coordinate" and rings:
            n_vertices += 1
            if n_vertices > MAX_VERTICES:
                raise ValueError(f"more than {MAX_VERTICES:,} vertices")
            try:
                rings[-1].append((float(values.get("Order", len(rings[-1]))), float(values["X"]), float(values["Y"])))
            except KeyError as error:
                raise ValueError("a Coordinate without X and Y") from error

    def refuse(*_: Any) -> None:
        raise ValueError("it declares entities of its own; annotations have none")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EntityDeclHandler = start, refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"not XML: {error}") from error
    if not kinds and b"ASAP_Annotations" not in data[:4096]:
        raise ValueError("no Annotation in it; expected ASAP's XML")
    by_kind = {kind: [_closed(np.array(sorted(ring))[:, 1:]) for is_lesion, ring in zip(kinds, rings, strict=True)
                      if is_lesion is kind and len(ring) >= 3] for kind in (True, False)}  # fmt: skip
    return _outline(by_kind[True], by_kind[False])


def read_reference(data: bytes) -> dict[str, str]:
    """The labels in the data set's reference, by slide: `test_001,Tumor,IDC,Macro`, with or without a header.

    Of a row the first cell that is one of `LABELS` counts, wherever it stands. Slides are given without suffix, and as
    labels are in lower case: `{"test_001": "tumor"}`.

    Raises:
        ValueError: a row has another form.
    """
    labels: dict[str, str] = {}
    for number, row in enumerate(csv.reader(io.StringIO(data.decode("utf-8-sig"))), 1):
        if number > MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS:,} rows")
        cells = [cell.strip().casefold() for cell in row]
        label = next((LABELS[cell] for cell in cells[1:] if cell in LABELS), None)
        if label is not None:
            labels[cells[0].removesuffix(".tif")] = label
        elif number > 1 and any(cells):
            raise ValueError(f"row {number}: expected a slide and Normal or Tumor, found {','.join(row)[:80]!r}")
    return labels


def _loaded(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes, at most {MAX_BYTES:,} are read")
    with suppress(RecursionError):
        return json.loads(data)
    raise ValueError("nested too deep")


def _kind(values: dict[str, str]) -> bool | None:
    """Whether an annotation is a lesion, or cut out; None for what has no area.

    Raises:
        ValueError: its group has no known meaning.
    """
    if values.get("Type", "Polygon").casefold() in ("dot", "measurement", "pointset"):
        return None
    group = values.get("PartOfGroup", "").casefold()
    if group not in LESIONS | NO_LESIONS:
        raise ValueError(f"annotation group {values.get('PartOfGroup')!r} is unknown; expected _0, _1, _2, Tumor, ...")
    return group in LESIONS


def _ring(polygon: Any) -> Points:
    vertices = polygon.get("vertices") if isinstance(polygon, dict) else None
    try:
        points = np.array([(vertex[0], vertex[1]) for vertex in vertices or ()], np.float64)
    except (TypeError, IndexError, KeyError, ValueError, OverflowError) as error:
        raise ValueError("'vertices' is not a list of [x, y]") from error
    if len(points) > MAX_VERTICES:
        raise ValueError(f"more than {MAX_VERTICES:,} vertices")
    if points.ndim != 2 or len(points) < 3:
        raise ValueError("a polygon of fewer than three vertices")
    return _closed(points)


def _closed(points: npt.NDArray[np.float64]) -> Points:
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not a finite number")
    return np.concatenate([points, points[:1]])


def _outline(lesions: Iterable[Points], cut_out: Iterable[Points]) -> Any:
    """Lesions without what is cut out; rings that cross themselves are filled even-odd, as ASAP draws them."""
    whole, holes = (
        shapely.union_all([shapely.make_valid(shapely.Polygon(ring)) for ring in rings]) for rings in (lesions, cut_out)
    )
    return areas(shapely.difference(whole, holes))


def areas(geometry: Any) -> Any:
    """The polygons of a geometry as one; lines and points, which `make_valid` may leave, have no area."""
    pieces = [piece for part in shapely.get_parts(geometry) for piece in shapely.get_parts(part)]
    return shapely.union_all([piece for piece in pieces if piece.area > 0])
