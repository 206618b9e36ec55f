"""Outlines -> which tiles are anomalous: half inside, touched, in a hole, outside."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import shapely

from uadray.errors import InputError
from uadray.evaluation import outlines
from uadray.evaluation.outlines import any_outline, outline_uri, outline_uris, read_outlines, tile_truth
from uadray.phantoms.archive import write_archive
from uadray.schemas import TILES


def _tiles(corners: list[tuple[int, int]], side: int = 10) -> pa.Table:
    n = len(corners)
    columns = [
        [f"s/{i}" for i in range(n)], ["s"] * n, [x for x, _ in corners], [y for _, y in corners],
        [side] * n, [side] * n, [1.0] * n, ["tissue"] * n,
    ]  # fmt: skip
    return pa.table(dict(zip(TILES.names, columns, strict=True)), schema=TILES)


def _write(path: Path, values: Any) -> str:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return str(path)


def _feature(*rings: list[list[float]], kind: str = "Polygon") -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": {"type": kind, "coordinates": list(rings)}}


def _square(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


@pytest.mark.parametrize(
    ("corner", "truth"),
    [
        pytest.param((20, 20), 1, id="inside"),
        pytest.param((0, 0), 0, id="outside"),
        pytest.param((10, 20), 0, id="shares an edge only"),
        pytest.param((15, 20), 1, id="exactly half inside"),
        pytest.param((14, 20), -1, id="four tenths inside"),
        pytest.param((11, 20), -1, id="touched"),
        pytest.param((15, 15), -1, id="a quarter, at the corner"),
        pytest.param((50, 50), 0, id="in the hole"),
        pytest.param((45, 50), 1, id="half in the hole"),
        pytest.param((44, 50), 1, id="less than half in the hole"),
        pytest.param((46, 50), -1, id="more than half in the hole"),
    ],
)
def test_by_hand(tmp_path: Path, corner: tuple[int, int], truth: int) -> None:
    """A square from 20 to 100 with a hole from 50 to 70; tiles of 10."""
    uri = _write(tmp_path / "s.geojson", _feature(_square(20, 20, 100, 100), _square(50, 50, 70, 70)))
    assert tile_truth(_tiles([corner]), read_outlines(uri)).tolist() == [truth]


def test_overlapping_outlines_count_once() -> None:
    outline = shapely.union_all([shapely.box(0, 0, 4, 10), shapely.box(1, 0, 4.5, 10)])
    assert tile_truth(_tiles([(0, 0)]), outline).tolist() == [-1]


@pytest.mark.parametrize(
    "values",
    [
        {"type": "FeatureCollection", "features": [_feature(_square(0, 0, 10, 10)), _feature(_square(20, 0, 30, 10))]},
        _feature([_square(0, 0, 10, 10)], [_square(20, 0, 30, 10)], kind="MultiPolygon"),
        {"type": "MultiPolygon", "coordinates": [[_square(0, 0, 10, 10)], [_square(20, 0, 30, 10)]]},
    ],
    ids=["collection", "multipolygon", "bare geometry"],
)
def test_shapes_of_geojson(tmp_path: Path, values: dict[str, Any]) -> None:
    outline = read_outlines(_write(tmp_path / "s.geojson", values))
    assert outline.area == 200
    assert tile_truth(_tiles([(0, 0), (10, 0), (20, 0)]), outline).tolist() == [1, 0, 1]


def test_points_and_lines_are_no_lesions_and_bow_ties_are_mended(tmp_path: Path) -> None:
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[0, 0], [50, 50]]}}
    bow_tie = _feature([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]])
    uri = _write(tmp_path / "s.geojson", {"type": "FeatureCollection", "features": [line, bow_tie]})
    outline = read_outlines(uri)
    assert tile_truth(_tiles([(0, 0), (20, 20)]), outline).tolist() == [1, 0]


def test_no_outlines_is_all_normal_and_no_file_is_none(tmp_path: Path) -> None:
    empty = read_outlines(_write(tmp_path / "s.geojson", {"type": "FeatureCollection", "features": []}))
    assert tile_truth(_tiles([(0, 0), (5, 5)]), empty).tolist() == [0, 0]
    assert read_outlines(str(tmp_path / "none.geojson")) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"type": "FeatureCollection"}', '{"type": "Polygon", "coordinates": 3}', '{"type": "Cube"}'],
)
def test_what_is_not_geojson_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="not GeoJSON polygons"):
        read_outlines(_write(tmp_path / "s.geojson", content))


def test_where_outlines_lie(tmp_path: Path) -> None:
    assert outline_uri("s3://b/x/slide.ome.tif", "id", None) == "s3://b/x/slide.ome.geojson"
    assert outline_uri("s3://b/x/slide.tif", "id", "s3://o/dir/") == "s3://o/dir/id.geojson"
    there = _write(tmp_path / "a.geojson", "{}")
    assert any_outline([str(tmp_path / "b.geojson"), there])
    assert not any_outline([str(tmp_path / "b.geojson")])
    assert not any_outline([])


def test_phantom_archives_outlines_read_back(tmp_path: Path) -> None:
    """The shares of lesion that the grid sees add up to the area of the outline."""
    write_archive(tmp_path, n_slides=1, n_lesion=1, seed=3, size_px=512, mpp=1.0)
    outline = read_outlines(str(tmp_path / "phantom_000.geojson"))
    corners = [(x, y) for y in range(0, 512, 8) for x in range(0, 512, 8)]
    truth = tile_truth(_tiles(corners, side=8), outline)
    assert (truth == 1).sum() * 64 == pytest.approx(outline.area, rel=0.1)
    assert np.isin(truth, (-1, 0, 1)).all()


def test_masks_have_the_area_of_their_pixels(tmp_path: Path) -> None:
    """Pixels of a whole slide, each of 32 x 16 level-0 pixels; a hole stays one."""
    drawn = np.zeros((20, 30), np.uint8)
    drawn[2:10, 3:20] = 255
    drawn[4:6, 5:8] = 0
    drawn[15, 25] = 1
    cv2.imwrite(str(tmp_path / "s.png"), drawn)
    outline = read_outlines(str(tmp_path / "s.png"), size_level0_px=(960, 320))
    assert outline.area == np.count_nonzero(drawn) * 32 * 16
    assert outline.bounds == (96, 32, 832, 256)
    assert tile_truth(_tiles([(100, 40), (170, 70)]), outline).tolist() == [1, 0]
    with pytest.raises(InputError, match="size of its slide is not known"):
        read_outlines(str(tmp_path / "s.png"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"no picture", "no PNG that can be read"),
        (b"\x89PNG" + bytes(12) + b"\x7f\xff\xff\xff\x7f\xff\xff\xff", "at most 134,217,728 are read"),
    ],
)
def test_masks_that_are_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "s.png").write_bytes(data)
    with pytest.raises(InputError, match=expected):
        read_outlines(str(tmp_path / "s.png"), size_level0_px=(10, 10))


def test_a_ragged_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "MAX_RUNS", 40)
    chequered = np.indices((10, 10)).sum(0) % 2 == 0
    with pytest.raises(ValueError, match="50 runs of pixels, at most 40"):
        outlines.mask_outline(chequered, (10, 10))


def test_where_outlines_are(tmp_path: Path) -> None:
    """In any form, in upper or lower case; GeoJSON comes first, and masks are looked for in a folder alone."""
    for name in ("Tumor_001.xml", "b.json", "b.geojson", "c.png"):
        (tmp_path / name).touch()
    slides = {name: str(tmp_path / f"{name}.tif") for name in ("Tumor_001", "b", "c", "d")}
    beside = outline_uris(slides, None)
    assert [Path(uri).name for uri in beside.values()] == ["Tumor_001.xml", "b.geojson", "c.geojson", "d.geojson"]
    found = outline_uris({name.lower(): f"x/{uri}" for name, uri in slides.items()}, str(tmp_path))
    assert {name: Path(uri).name for name, uri in found.items()} == {
        "tumor_001": "Tumor_001.xml", "b": "b.geojson", "c": "c.png", "d": "d.geojson",
    }  # fmt: skip
