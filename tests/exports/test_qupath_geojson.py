"""GeoJSON by QuPath's documented form, and by what it means: the same places, scores and areas."""

import json
import math
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from made_up_exports import BOUNDS, TILE_PX, made_slide

from uadray.bench.export import geojson_mb
from uadray.errors import InputError
from uadray.exports.exported_slide import ExportedSlide, ExportOptions
from uadray.exports.qupath_geojson import exported

LESION = [[0, 0, 0, 0], [0, 2, 3, 0], [0, 0, 4, 0], [5, 0, 0, math.nan]]
TYPES = {"annotation", "detection", "tile", "cell", "tmaCore"}


def _read(slide: ExportedSlide, **options: Any) -> list[dict[str, Any]]:
    """The features of the file, each looked at as QuPath reads it (`PathObjectTypeAdapters`, 0.4 to 0.6)."""
    text = exported(slide, ExportOptions(coordinates="qupath", **options)).decode()
    collection = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert uuid.UUID(feature["id"]).variant == uuid.RFC_4122
        assert feature["geometry"]["type"] in {"Polygon", "MultiPolygon"}
        assert shapely.geometry.shape(feature["geometry"]).is_valid
        properties = feature["properties"]
        assert set(properties) <= {"objectType", "name", "classification", "isLocked", "measurements"}
        assert properties["objectType"] in TYPES
        assert properties["isLocked"] is True
        colour = properties["classification"]["color"]
        assert len(colour) == 3
        assert all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
        for name, value in properties.get("measurements", {}).items():
            assert isinstance(name, str)
            assert isinstance(value, int | float)
    ids = [feature["id"] for feature in collection["features"]]
    assert len(set(ids)) == len(ids)
    return list(collection["features"])


def test_regions_with_their_measurements() -> None:
    large, small = sorted(
        _read(made_slide(LESION)), key=lambda feature: -feature["properties"]["measurements"]["Tiles"]
    )
    assert large["properties"]["classification"]["name"] == "Anomaly"
    measured = large["properties"]["measurements"]
    area_mm2 = 3 * (TILE_PX * 0.5 / 1000) ** 2
    assert (measured["Tiles"], measured["Mean score"], measured["Max score"]) == (3, 3.0, 4.0)
    assert measured["Area mm^2"] == pytest.approx(area_mm2, rel=1e-5)
    assert (measured["Slide p-value"], measured["Slide score"]) == (0.01, 2.5)
    shape = shapely.geometry.shape(large["geometry"])
    assert shape.bounds == (TILE_PX, TILE_PX, 3 * TILE_PX, 3 * TILE_PX)
    assert shape.area * 0.25e-6 == pytest.approx(area_mm2)
    assert shapely.geometry.shape(small["geometry"]).bounds == (0, 3 * TILE_PX, TILE_PX, 4 * TILE_PX)
    assert small["properties"]["name"] == "Region 1"  # by their highest scores


def test_the_same_slide_has_the_same_names_and_others_have_others() -> None:
    assert exported(made_slide(LESION), ExportOptions()) == exported(made_slide(LESION), ExportOptions())
    here, there = (_read(replace(made_slide(LESION), name=name))[0]["id"] for name in ("a", "b"))
    assert here != there


def test_qupath_counts_from_the_corner_of_the_bounds() -> None:
    (feature,) = _read(made_slide([[0, 0], [0, 5]], **BOUNDS))
    assert shapely.geometry.shape(feature["geometry"]).bounds[:2] == (TILE_PX - 100, TILE_PX - 50)
    level0 = json.loads(exported(made_slide([[0, 0], [0, 5]], **BOUNDS), ExportOptions(coordinates="level0")))
    assert level0["features"][0]["id"] == feature["id"]
    assert shapely.geometry.shape(level0["features"][0]["geometry"]).bounds[:2] == (TILE_PX, TILE_PX)


def test_all_tiles_with_those_that_have_no_score() -> None:
    features = _read(made_slide(LESION), all_tiles=True)
    assert len(features) == 16
    assert {feature["properties"]["objectType"] for feature in features} == {"tile"}
    names = [feature["properties"]["classification"]["name"] for feature in features]
    assert (names.count("Anomaly"), names[-1]) == (4, "Not scored: blur")
    assert features[6]["properties"]["measurements"] == {"Score": 3, "Normal tiles below": 1}
    assert shapely.geometry.shape(features[6]["geometry"]).bounds == (448, 224, 672, 448)


def test_regions_of_a_normal_slide_are_called_so() -> None:
    (feature, *_) = _read(made_slide(LESION, decision="normal"))
    assert feature["properties"]["classification"]["name"] == "High score on a normal slide"


def test_thresholds() -> None:
    slide = made_slide(LESION)
    assert len(_read(slide, threshold=4.5)) == 1
    assert len(_read(slide, quantile=0.5)) == 2  # the median of normal tiles is 0, and tiles of 0 are not above it
    assert _read(slide, threshold=9.0) == []
    unknown = replace(slide, scale=None, why_no_scale="it is gone")
    with pytest.raises(InputError, match=r"it is gone.*--threshold"):
        exported(unknown, ExportOptions())


def test_a_chessboard_of_regions_is_one_feature_beyond_the_first_thousands() -> None:
    side = 90
    scores = np.indices((side, side)).sum(0) % 2 * 2.0
    features = _read(made_slide(scores))
    assert len(features) == 2001
    assert features[-1]["properties"]["name"] == f"{side * side // 2 - 2000} smaller regions"
    tiles = sum(feature["properties"]["measurements"]["Tiles"] for feature in features)
    assert tiles == side * side // 2


def test_a_slide_of_100_000_tiles_is_below_5_mb_however_its_scores_lie() -> None:
    assert geojson_mb(only=["chessboard"])["chessboard"] < 5.0


def test_names_and_scores_that_json_must_escape() -> None:
    slide = replace(made_slide([[5.0]], score=math.nan), name='"</script>\n\u2028')
    (feature,) = _read(slide)
    assert "Slide score" not in feature["properties"]["measurements"]
