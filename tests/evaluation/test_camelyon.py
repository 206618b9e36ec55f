"""Annotations of Camelyon16: what the two real files have, holes, groups, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from uadray.errors import InputError
from uadray.evaluation.camelyon import read_json, read_reference, read_xml
from uadray.evaluation.lesions import lesion_mask, rasterised
from uadray.evaluation.outlines import read_outlines

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100]]
INNER = [[40, 40], [60, 40], [60, 60], [40, 60]]


def _json(**kinds: list[Any]) -> bytes:
    return json.dumps(
        {kind: [{"name": "a", "vertices": ring} for ring in rings] for kind, rings in kinds.items()}
    ).encode()


def _xml(*annotations: tuple[str, list[list[float]]], type_: str = "Polygon") -> bytes:
    parts = [
        f'<Annotation Name="a" Type="{type_}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for group, ring in annotations
    ]
    body = "".join(parts)
    return f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>'.encode()


def _shoelace(ring: Any) -> float:
    """The area inside a ring that does not cross itself."""
    x, y = np.array(ring, np.float64).T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


@pytest.mark.parametrize("name", ["Tumor_001", "Tumor_005"])
def test_the_real_ones_rasterise_to_the_areas_their_outlines_have(data_dir: Path, name: str) -> None:
    """At levels 3 to 6: each lesion to fewer pixels than the root of its perimeter; a slide's at level 5 to 0.3 %."""
    data = (data_dir / "camelyon16" / f"{name}.json").read_bytes()
    outline = read_outlines(str(data_dir / "camelyon16" / f"{name}.json"))
    assert outline.equals(read_json(data))
    rings = [polygon["vertices"] for polygon in json.loads(data)["positive"]]
    lesions = sorted(shapely.get_parts(outline), key=lambda part: part.area)
    assert len(lesions) == len(rings)
    for lesion, ring in zip(lesions, sorted(rings, key=_shoelace), strict=True):
        assert lesion.area == pytest.approx(_shoelace(ring), rel=1e-6)
        for level in (3, 4, 5, 6):
            area, perimeter = lesion.area / 4**level, lesion.length / 2**level
            left, top, right, bottom = (int(edge) // 2**level for edge in lesion.bounds)
            mask = rasterised(lesion, (bottom - top + 1, right - left + 1), downsample=2**level, left=left, top=top)
            assert abs(int(mask.sum()) - area) < perimeter**0.5
    right, bottom = (int(edge) // 32 + 1 for edge in outline.bounds[2:])
    whole = rasterised(outline, (bottom, right), downsample=32)
    assert whole.sum() * 32**2 == pytest.approx(outline.area, rel=0.003)


def test_the_real_ones_have_metastases(data_dir: Path) -> None:
    counts = []
    for name in ("Tumor_001", "Tumor_005"):
        outline = read_outlines(str(data_dir / "camelyon16" / f"{name}.json"))
        mask = lesion_mask(outline, mpp_level0=0.243)
        counts.append((mask.downsample, mask.n_lesions, mask.n_isolated))
    assert counts == [(32, 2, 0), (32, 1, 0)]


def test_the_real_reference(data_dir: Path) -> None:
    labels = read_reference((data_dir / "camelyon16" / "test_GT.csv").read_bytes())
    assert len(labels) == 130
    assert sum(label == "tumor" for label in labels.values()) == 50
    assert (labels["test_001"], labels["test_003"]) == ("tumor", "normal")


def test_holes_are_cut_out() -> None:
    expected = shapely.difference(shapely.Polygon(SQUARE), shapely.Polygon(INNER))
    assert read_json(_json(positive=[SQUARE], negative=[INNER])).equals(expected)
    assert read_xml(_xml(("_0", SQUARE), ("_2", INNER))).equals(expected)
    assert read_xml(_xml(("Tumor", SQUARE), ("Exclusion", INNER))).equals(expected)
    assert read_xml(_xml(("metastases", SQUARE), ("normal", INNER))).area == 100**2 - 20**2


def test_lesions_that_overlap_are_united_and_rings_that_cross_themselves_have_an_area() -> None:
    shifted = [[x + 50, y] for x, y in SQUARE]
    assert read_json(_json(positive=[SQUARE, shifted], negative=[])).area == 150 * 100
    bow_tie = [[0, 0], [100, 100], [100, 0], [0, 100]]
    assert read_xml(_xml(("_1", bow_tie))).area == pytest.approx(100**2 / 2)


def test_vertices_are_in_their_order() -> None:
    turned = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in [*enumerate(SQUARE)][::-1])
    text = f'<ASAP_Annotations><Annotation PartOfGroup="_0">{turned}</Annotation></ASAP_Annotations>'
    assert read_xml(text.encode()).area == 100**2


def test_what_has_no_area_is_left_out() -> None:
    assert read_xml(_xml(("None", [[1, 1]]), type_="Dot")).is_empty
    assert read_xml(_xml(("_0", [[1, 1], [2, 2]]))).is_empty
    assert read_xml(b"<ASAP_Annotations><Annotations/></ASAP_Annotations>").is_empty
    assert read_json(_json(positive=[], negative=[])).is_empty


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.json", b'{"positive": [{"vertices": [[0, 0], [1, 1]]}]}', "fewer than three vertices"),
        ("a.json", b'{"positive": [{"vertices": [[0, 0], [1, 1], [1, NaN]]}]}', "not a finite number"),
        ("a.json", b'{"positive": [{"vertices": "abc"}]}', "not a list of"),
        ("a.json", b'{"positive": [7]}', "fewer than three vertices"),
        ("a.json", b'{"positive": {}}', "not GeoJSON polygons"),
        ("a.json", b"[" * 100_000, "outlines .*a.json"),
        ("a.xml", b"<ASAP_Annotations><Annotation", "not XML"),
        ("a.xml", b"<html></html>", "expected ASAP's XML"),
        ("a.xml", _xml(("Stroma", SQUARE)), "group 'Stroma' is unknown"),
        ("a.xml", b'<A><Annotation PartOfGroup="_0"><Coordinate X="1"/></Annotation></A>', "without X and Y"),
        ("a.xml", b'<A><Annotation PartOfGroup="_0"><Coordinate X="1" Y="a"/></Annotation></A>', "could not convert"),
        ("a.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declares entities of its own"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=expected) as caught:
        read_outlines(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_reference_of_another_form_is_refused() -> None:
    assert read_reference(b"slide,type\ntest_001.tif,NORMAL\n\n") == {"test_001": "normal"}
    with pytest.raises(ValueError, match=r"row 2: expected a slide and Normal or Tumor, found 'test_002,maybe'"):
        read_reference(b"test_001,Tumor\ntest_002,maybe\n")
