"""Outlines that people drew: what is tissue, what is cut out, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiles.mask_boxes import SHAPE, SIZE, box

from uadray.errors import SlideError
from uadray.slides.opening import open_slide
from uadray.tiles import mask_geojson
from uadray.tiles.mask_geojson import read_mask
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec


def _square(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _feature(*rings: Any, kind: str = "Polygon", name: str | None = None) -> dict[str, Any]:
    properties = {} if name is None else {"classification": {"name": name}}
    return {"type": "Feature", "properties": properties, "geometry": {"type": kind, "coordinates": list(rings)}}


def _bytes(*features: Any) -> bytes:
    return json.dumps({"type": "FeatureCollection", "features": list(features)}).encode()


def _read(*features: Any) -> np.ndarray:
    return read_mask(_bytes(*features), "s", SIZE, SHAPE)


def test_a_square_with_a_hole() -> None:
    expected = box(20, 10, 60, 50) & ~box(30, 20, 40, 30)
    assert (_read(_feature(_square(200, 100, 600, 500), _square(300, 200, 400, 300))) == expected).all()


@pytest.mark.parametrize(("edge", "inside"), [(304.9, True), (305.1, False)])
def test_a_pixel_is_where_its_centre_is(edge: float, inside: bool) -> None:
    assert _read(_feature(_square(edge, 100, 600, 500)))[20, 30] == inside


def test_multipolygons_orientation_and_overlap() -> None:
    pieces = [_square(0, 0, 100, 100)], [_square(200, 0, 300, 100)[::-1]], [_square(50, 0, 150, 100)]
    assert (_read(_feature(*pieces, kind="MultiPolygon")) == box(0, 0, 15, 10) | box(20, 0, 30, 10)).all()


@pytest.mark.parametrize("name", ["Ignore", "Ignore*", "Exclude", "Pen", "fold", "Air", "blur", "out_of_focus"])
def test_what_people_exclude_is_cut_out_in_any_order(name: str) -> None:
    whole, hole = _feature(_square(0, 0, 500, 500), name="Tissue"), _feature(_square(100, 100, 200, 200), name=name)
    expected = box(0, 0, 50, 50) & ~box(10, 10, 20, 20)
    assert (_read(whole, hole) == expected).all()
    assert (_read(hole, whole) == expected).all()


WHOLE, HOLE = _square(0, 0, 500, 500), _square(100, 100, 200, 200)


def _classed(ring: Any, **properties: Any) -> dict[str, Any]:
    return _feature(ring) | {"properties": properties}


@pytest.mark.parametrize(
    "properties",
    [
        *({"classification": {"name": name}} for name in (
            "ignore", " Ignore * ", "IGNORE*", "Ignored", "exclude", "Artifact", "artefacts", "ARTIFACTS", "Pens",
            "pen", "pen marks", "Pen-Mark", "Marker", "ink", "Folds", "Tissue fold", "air bubbles", "Bubble", "Blurred",
            "Out of focus", "out-of-focus", "OutOfFocus", "Dust", "Background", "Artifact: pen", "Artifact: whatever",
            "Ignore*: Pen", "Tumor: Artefact", "Pen artifact", "Ignore (pen)", "Pen 2",
        )),
        {"classification": {"names": ["Ignore*", "Pen"], "color": [200, 0, 0]}},
        {"classification": {"names": ["Other", "Artifact"]}},
        {"classification": {"name": "Tissue", "names": ["Tissue", "Folds"]}},
        {"classification": "Pen"},
        {"classification": ["Artifact", "pen"]},
        {"class": "Artefact"},
        {"name": "Ignore*"},
        {"name": "pen", "classification": {"name": ""}},
        {"name": "air", "classification": None},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_evidently_cut_out(properties: dict[str, Any]) -> None:
    expected = box(0, 0, 50, 50) & ~box(10, 10, 20, 20)
    assert (_read(_classed(WHOLE, classification={"name": "Tissue"}), _classed(HOLE, **properties)) == expected).all()


@pytest.mark.parametrize(
    "properties",
    [
        *({"classification": {"name": name}} for name in ("tissue", " TISSUES ", "Tumor", "Tumour 3", "Region*")),
        {"classification": {"names": ["Tumor", "Positive"]}},
        {"classification": {"name": "Tumor: whatever"}},
        {"classification": {"colorRGB": -3670016}},
        {"classification": {"name": "None"}},
        {"name": "Annotation 7", "isLocked": False},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_evidently_tissue(properties: dict[str, Any]) -> None:
    assert (_read(_classed(WHOLE, **properties)) == box(0, 0, 50, 50)).all()


@pytest.mark.parametrize(
    ("classification", "message"),
    [
        ({"name": "Adenoma"}, "class 'Adenoma' says neither tissue nor what to cut out; name it Tissue or Ignore"),
        ({"name": "Artfact"}, r"'Artfact' says neither .* \(did you mean Artifact\?\)"),
        ({"names": ["Ingore*", "dots"]}, r"'Ingore\*: dots' says neither .* \(did you mean Ignore\?\)"),
        ({"name": "x" * 10_000}, "class 'x{60}' says"),
        ({"name": 7}, "its class '7' is no text"),
        ({"names": ["Pen", None]}, "is no text"),
        (7, "its class '7' is no text"),
    ],
)
def test_a_class_that_is_not_understood_is_refused_by_name(classification: Any, message: str) -> None:
    with pytest.raises(SlideError, match=f"^slide s: its mask, feature 2: .*{message}") as caught:
        _read(_classed(WHOLE, classification={"name": "Tissue"}), _classed(HOLE, classification=classification))
    assert caught.value.reason == "bad_mask"
    assert "level-0" not in str(caught.value)


def test_a_region_without_class_adds_tissue_or_is_refused() -> None:
    """Within the tissue it would change nothing, so it was drawn for something else."""
    tissue, inside = _classed(WHOLE, classification={"name": "Tissue"}), _feature(HOLE)
    added = _feature(_square(400, 400, 700, 700))
    assert (_read(added, tissue) == box(0, 0, 50, 50) | box(40, 40, 70, 70)).all()
    assert (_read(tissue, _feature(_square(101, 101, 102, 102))) == box(0, 0, 50, 50)).all(), "no pixel's centre in it"
    for features in ([tissue, added, inside], [inside, tissue, added]):
        number = features.index(inside) + 1
        with pytest.raises(SlideError, match=f"feature {number}: it has no class and lies within the tissue"):
            _read(*features)
    assert (_read(_feature(WHOLE), inside) == box(0, 0, 50, 50)).all(), "where nothing is classed all is tissue"


def test_a_file_that_only_cuts_out_is_about_what_was_found() -> None:
    detected = box(0, 0, 90, 70)
    hole = _bytes(_classed(HOLE, classification={"name": "Ignore*"}))
    assert (read_mask(hole, "s", SIZE, SHAPE, detected=detected) == detected & ~box(10, 10, 20, 20)).all()
    assert not read_mask(hole, "s", SIZE, SHAPE).any()
    assert not read_mask(_bytes(), "s", SIZE, SHAPE, detected=detected).any(), (
        "an empty file says that there is no tissue"
    )


def test_collections_in_lists_and_in_each_other() -> None:
    """QuPath writes a bare list of features, too; other tools nest."""
    tissue, pen = _classed(WHOLE, classification={"name": "Tissue"}), _classed(HOLE, classification={"name": "Pen"})
    inner = {"type": "FeatureCollection", "features": [pen]}
    expected = box(0, 0, 50, 50) & ~box(10, 10, 20, 20)
    for value in (
        [tissue, pen],
        [{"type": "FeatureCollection", "features": [tissue]}, inner],
        {"type": "FeatureCollection", "features": [inner, tissue]},
        {"type": "FeatureCollection", "features": [{"type": "FeatureCollection", "features": [inner]}, tissue]},
    ):
        assert (read_mask(json.dumps(value).encode(), "s", SIZE, SHAPE) == expected).all()
    polygon, none = {"type": "Polygon", "coordinates": [WHOLE, HOLE]}, {"type": "Polygon", "coordinates": []}
    many = {"type": "MultiPolygon", "coordinates": [[_square(600, 0, 700, 100)], []]}
    both = {"type": "GeometryCollection", "geometries": [polygon, {"type": "GeometryCollection", "geometries": [many]}]}
    assert (_read(_feature() | {"geometry": both}, none) == expected | box(60, 0, 70, 10)).all()


@pytest.mark.parametrize(
    ("name", "n_tiles"), [("ref_all", 64), ("ref_ignore", 32), ("derived_names", 32), ("artifact", 32)]
)
def test_files_that_people_made(data_dir: Path, tmp_path: Path, name: str, n_tiles: int) -> None:
    case = data_dir / "cases" / "05_edited_masks"
    (tmp_path / "s.geojson").write_bytes((case / "masks" / f"{name}.geojson").read_bytes())
    spec = TileSpec(mpp=1.0, tile_px=64, mask_dir=str(tmp_path))
    with open_slide(case / "slide.tif", slide_id="s") as slide:
        assert len(plan_slide(slide, etag="e", spec=spec).tiles) == n_tiles


def test_bare_geometry_null_geometry_nothing_and_outside() -> None:
    bare = json.dumps({"type": "Polygon", "coordinates": [_square(-500, -500, 100, 100)]}).encode()
    assert (read_mask(bare, "s", SIZE, SHAPE) == box(0, 0, 10, 10)).all()
    nowhere = {"type": "Feature", "geometry": None, "properties": None}
    assert not _read(nowhere).any()
    assert not _read().any()
    assert not _read(_feature(_square(2000, 0, 3000, 500))).any()
    assert _read(_feature(_square(-1e300, -1e300, 1e300, 1e300))).all()


RING = _square(0, 0, 10, 10)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.geojson: "),
        (b"\xff\xfe{", "a.geojson: "),
        (b"[]", "an object expected, found list"),
        (b"[3]", "an object expected, found int"),
        (b'{"type": "FeatureCollection", "features": [[]]}', "an object expected, found list"),
        (b'[{"type": "FeatureCollection", "features": {}}]', "without a list of features"),
        (b'{"type": "GeometryCollection", "geometries": [{"type": "Point"}]}', "geometry 'Point' is no area"),
        (b'{"type": "GeometryCollection"}', "not a list"),
        (b'{"type": "FeatureCollection"}', "without a list of features"),
        (b"[" * 200_000, "nested too deep"),
        (_bytes(_feature(RING), _feature([0, 0], [1, 1], kind="LineString")), "feature 2: geometry 'LineString'"),
        (_bytes(_feature(1, 2, kind="Point")), "feature 1: geometry 'Point'"),
        (_bytes(_feature([[0, 0], [5, float("nan")], [9, 9]])), "feature 1: a coordinate is not a finite number"),
        (_bytes(_feature([[0, 0], [5, 1e999], [9, 9]])), "not a finite number"),
        (_bytes(_feature([[0, 0], [9, 9]])), "fewer than three"),
        (_bytes(_feature([[0, 0], [5], [9, 9]])), r"not a list of \[x, y\]"),
        (_bytes(_feature([["a", 0], [5, 1], [9, 9]])), r"not a list of \[x, y\]"),
        (_bytes(_feature(3)), "not a list"),
        (_bytes({"type": "Feature", "geometry": "no"}), "is no area"),
        (b'{"type": "Polygon", "coordinates": 3}', "not a list"),
    ],
)
def test_what_is_refused_names_slide_file_and_feature(data: bytes, message: str) -> None:
    with pytest.raises(SlideError, match=message) as caught:
        read_mask(data, "s7", SIZE, SHAPE, source="a.geojson")
    assert caught.value.reason == "bad_mask"
    assert str(caught.value).startswith("slide s7: a.geojson")


def test_hostile_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    zigzag = [[x % 2 * 1000, x % 3 * 800] for x in range(1000)]
    whole = _feature(_square(0, 0, 1000, 800))
    for name, limit, feature, what in (
        ("MAX_BYTES", 50, whole, "bytes"),
        ("MAX_VERTICES", 900, _feature(zigzag), "vertices"),
        ("MAX_CROSSINGS", 10_000, _feature(zigzag), "crossings"),
        ("MAX_FILLED_PX", 15_000, _feature(*[[_square(0, 0, 1000, 800)]] * 2, kind="MultiPolygon"), "filled"),
    ):
        _read(feature)
        with monkeypatch.context() as patch:
            patch.setattr(mask_geojson, name, limit)
            with pytest.raises(SlideError, match=what):
                _read(feature)
