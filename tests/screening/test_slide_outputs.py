"""What is written about one slide."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import screening_drivers as sd

from uadray.reports.pictures import decode_jpeg, encode_jpeg
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.slide_outputs import decision_record, decisions_of, parquet, slide_files, tiles_path, top_tiles
from uadray.screening.slide_result import EVIDENCE, BundleScores, SlideResult
from uadray.slides.manifest import SlideRow
from uadray.tiles.cells import cells_of, with_cells

ROW = SlideRow("s1", "/slides/s1.tif")

TILE = encode_jpeg(np.full((32, 32, 3), 200, np.uint8))
_spot = np.full((32, 32, 3), 200, np.uint8)
_spot[20:26, 4:10] = 60
SPOT = encode_jpeg(_spot)
"""The tile with a dark spot at the lower left."""


def _evidence(*reconstructions: bytes | None) -> pa.Table:
    n = len(reconstructions)
    columns = {
        "tile_id": [f"s1/{n - 1 - i}" for i in range(n)], "score": [1.5] * n, "tile": [TILE] * n,
        "reconstruction": list(reconstructions), "normals": [None] * n,
    }  # fmt: skip
    return pa.table(columns, schema=EVIDENCE)


def _result(*evidence: pa.Table) -> SlideResult:
    result = sd.scored(ROW, n_bundles=len(evidence))
    pairs = zip(result.scores, evidence, strict=True)
    result.scores = tuple(BundleScores(scores.tiles, pictures) for scores, pictures in pairs)
    return result


def _names(sheet: bytes) -> list[str]:
    return re.findall(r'<view id="(\w+)"', sheet.decode())


def test_files_of_one_bundle() -> None:
    files = slide_files(_result(_evidence(SPOT, SPOT)), sd.panel())
    kinds = ("tile", "reconstruction", "residual", "outline")
    names = ["thumbnail", "heatmap", *(f"{kind}_{place}" for kind in kinds for place in (0, 1))]
    assert files.keys() == {"evidence/s1.svg", "masks/s1.geojson"}
    assert sorted(_names(files["evidence/s1.svg"])) == sorted(names)
    assert tiles_path(sd.panel()[0], "s1") == "tiles/s1.parquet"


def test_a_detector_without_pictures_has_no_reconstruction_and_says_so() -> None:
    result = _result(_evidence(SPOT), _evidence(None, None))
    bundles = sd.panel(sd.Bundle("a", "a"), sd.Bundle("b", "b"))
    files = slide_files(result, bundles)
    assert files.keys() == {"a/evidence/s1.svg", "b/evidence/s1.svg", "masks/s1.geojson"}
    assert _names(files["b/evidence/s1.svg"]) == ["thumbnail", "heatmap", "tile_0", "tile_1"]
    kinds = ("tile", "reconstruction", "residual", "outline")
    assert _names(files["a/evidence/s1.svg"]) == ["thumbnail", "heatmap", *(f"{kind}_0" for kind in kinds)]
    assert [tile.get("has_reconstruction") for tile in top_tiles(result.of_bundle(1), sd.CALIBRATION)] == [False, False]
    assert top_tiles(result.of_bundle(0), sd.CALIBRATION) == [
        {"tile_id": "s1/0", "x_level0_px": 0, "y_level0_px": 0, "score": 1.5, "has_difference": True},
    ]  # fmt: skip


def test_evidence_shows_how_and_where_a_tile_differs_from_its_reconstruction() -> None:
    sheet = slide_files(_result(_evidence(SPOT)), sd.panel())["evidence/s1.svg"].decode()
    found = {
        kind: decode_jpeg(base64.b64decode(text))
        for kind, text in re.findall(r'<view id="(\w+)_0".*base64,([^"]*)"', sheet)
    }
    assert found["residual"].shape == (32, 32, 3)
    grey = found["residual"].mean(2)
    assert grey[21:25, 5:9].max() < 60 < 180 < grey[:16].min()
    line = found["outline"][..., 0].astype(int) - found["outline"][..., 2] > 100  # yellow
    rows, columns = np.nonzero(line)  # of a picture that is enlarged five times
    assert found["outline"].shape == (160, 160, 3)
    assert 90 < rows.min() < rows.max() < 140
    assert columns.max() < 60


SCALED = sd.CALIBRATION.model_copy(update={"cell_median": 0.0, "cell_p99": 0.6, "cell_high": 1.0})


def _with_cells(*cells: float) -> SlideResult:
    """Two tiles, each with cells of one number, the second of which is the first of the evidence."""
    tile = encode_jpeg(np.full((96, 96, 3), 200, np.uint8))
    evidence = _evidence(None, None).set_column(2, "tile", pa.array([tile, tile]))
    result = _result(evidence)
    tiles = result.scores[0].tiles
    assert tiles is not None
    numbers = np.array(cells, np.float32)[:, None, None] * np.ones((1, 6, 6), np.float32)
    result.scores = (BundleScores(with_cells(tiles, numbers), evidence),)
    return result


def test_evidence_of_a_detector_with_cells_shows_where_in_the_tile() -> None:
    panel = (replace(sd.panel()[0], calibration=SCALED),)
    result = _with_cells(0.0, 1.0)
    sheet = slide_files(result, panel)["evidence/s1.svg"]
    assert sorted(_names(sheet)) == ["cells_0", "cells_1", "heatmap", "thumbnail", "tile_0", "tile_1"]
    pairs = re.findall(r'<view id="cells_(\d)".*base64,([^"]*)"', sheet.decode())
    shades = {number: decode_jpeg(base64.b64decode(text)).mean() for number, text in pairs}
    assert shades["0"] < shades["1"] - 50  # the first of the evidence is the tile with high cells
    assert [tile["has_cells"] for tile in top_tiles(result.of_bundle(), SCALED)] == [True, True]
    table = pq.read_table(io.BytesIO(parquet(result.scores[0].tiles)))
    np.testing.assert_array_equal(cells_of(table), [np.zeros((6, 6)), np.ones((6, 6))])


def test_cells_without_a_scale_or_that_are_no_numbers_have_no_picture() -> None:
    result = _with_cells(0.0, 1.0)
    assert "cells_0" not in _names(slide_files(result, sd.panel())["evidence/s1.svg"])
    assert "has_cells" not in top_tiles(result.of_bundle(), sd.CALIBRATION)[0]
    panel = (replace(sd.panel()[0], calibration=SCALED),)
    half = _with_cells(0.5, float("nan"))
    assert [name for name in _names(slide_files(half, panel)["evidence/s1.svg"]) if "cells" in name] == ["cells_1"]
    assert [tile.get("has_cells") for tile in top_tiles(half.of_bundle(), SCALED)] == [None, True]


def test_a_slide_without_regions_has_no_file_of_them() -> None:
    result = _result(_evidence(None))
    result.masks = b'{"type": "FeatureCollection", "features": []}'
    assert slide_files(result, sd.panel()).keys() == {"evidence/s1.svg"}


def test_a_slide_that_no_bundle_has_scored_has_no_files() -> None:
    assert slide_files(sd.failed(ROW), sd.panel()) == {}


def test_a_record_has_the_decision_of_every_bundle() -> None:
    for bundles in (sd.panel(), sd.panel(sd.Bundle("a", "a"), sd.Bundle("b", "b"))):
        n = len(bundles)
        result = sd.scored(ROW, n_bundles=n)
        record = decision_record(result, bundles, sd.verdicts(result, n), fingerprint="f", mask=None, lease="p.1")
        decisions = decisions_of(json.loads(json.dumps(record)))
        assert record["lease"] == "p.1"
        assert [each["bundle"] for each in decisions] == [each.folder or None for each in bundles]
        assert [each["score"] for each in decisions] == [1.5 + i for i in range(n)]
        for each in decisions:
            assert set(SLIDE_DECISIONS.names) <= each.keys()
            assert (each["slide_id"], each["etag"], each["width_level0_px"], each["fingerprint"]) == (
                "s1",
                "e",
                400,
                "f",
            )


def test_a_record_has_what_the_manifest_says_of_where_a_slide_is_from() -> None:
    row = replace(ROW, site="North", scanner="S360", stain="H&E")
    for given, said in ((row, ["North", "S360", "H&E"]), (ROW, [None] * 3)):
        result = sd.scored(given)
        record = decision_record(result, sd.panel(), sd.verdicts(result), fingerprint="f", mask=None, lease="p.1")
        assert [record[name] for name in ("site", "scanner", "stain")] == said


def test_evidence_says_how_it_stands_among_normal_tiles() -> None:
    """Quantiles of whole per cent: a score of 1.5 is above all of them, and no p-value is below 1 / 101."""
    quantiles = tuple(np.linspace(0, 1, 101).tolist())
    calibration = sd.CALIBRATION.model_copy(update={"tile_quantiles": quantiles})
    (tile,) = top_tiles(_result(_evidence(SPOT)).of_bundle(), calibration)
    assert tile["normal_p"] == pytest.approx(1 / 101, abs=1e-6)
    assert tile["normal_limit"] == calibration.tile_p99


def test_normal_tiles_stand_below_an_evidence_tile() -> None:
    nearest = [{"jpeg": TILE, "score": 0.25}, {"jpeg": SPOT, "score": 0.5}]
    at = EVIDENCE.get_field_index("normals")
    evidence = _evidence(SPOT).set_column(at, EVIDENCE.field(at), pa.array([nearest], EVIDENCE.field(at).type))
    result = _result(evidence)
    assert [tile["normals"] for tile in top_tiles(result.of_bundle(), sd.CALIBRATION)] == [[0.25, 0.5]]
    names = _names(slide_files(result, sd.panel())["evidence/s1.svg"])
    assert {"normal1_0", "normal2_0"} <= set(names)
