"""The CSV by the rules that WSInfer's own converters read it with (`wsinfer.write_geojson`)."""

import csv
import io
import math
from dataclasses import replace

import pytest
from made_up_exports import BOUNDS, TILE_PX, made_slide

from uadray.exports.exported_slide import ExportOptions
from uadray.exports.wsinfer_csv import exported


def _rows(data: bytes) -> list[dict[str, float]]:
    return [
        {name: float(value) for name, value in row.items()} for row in csv.DictReader(io.StringIO(data.decode("ascii")))
    ]


def test_columns_and_rows() -> None:
    data = exported(made_slide([[0.0, 1.5], [math.nan, 9.0]]), ExportOptions())
    assert data.splitlines()[0] == b"minx,miny,width,height,prob_anomaly,score"
    rows = _rows(data)
    assert [(row["minx"], row["miny"]) for row in rows] == [(0, 0), (TILE_PX, 0), (TILE_PX, TILE_PX)]
    assert [row["prob_anomaly"] for row in rows] == pytest.approx([0.5, 0.75, 1.0])  # quantiles of -3 to 3
    assert [row["score"] for row in rows] == [0.0, 1.5, 9.0]


def test_without_a_calibration_the_score_is_called_a_score() -> None:
    rows = _rows(exported(replace(made_slide([[7.0]]), scale=None), ExportOptions()))
    assert rows == [{"minx": 0, "miny": 0, "width": TILE_PX, "height": TILE_PX, "prob_score": 7.0}]


def test_coordinates_are_the_files_own_unless_those_of_qupath_are_asked_for() -> None:
    slide = made_slide([[1.0]], **BOUNDS)
    assert _rows(exported(slide, ExportOptions(coordinates="level0")))[0]["minx"] == 0
    moved = _rows(exported(slide, ExportOptions(coordinates="qupath")))[0]
    assert (moved["minx"], moved["miny"]) == (-100, -50)
