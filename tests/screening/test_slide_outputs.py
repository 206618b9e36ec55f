"""What is written about one slide."""

import json
import re

import pyarrow as pa
import screening_drivers as sd

from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.slide_outputs import decision_record, decisions_of, slide_files, tiles_path, top_tiles
from uadray.screening.slide_result import EVIDENCE, BundleScores, SlideResult
from uadray.slides.manifest import SlideRow

ROW = SlideRow("s1", "/slides/s1.tif")


def _evidence(*reconstructions: bytes | None) -> pa.Table:
    n = len(reconstructions)
    columns = {
        "tile_id": [f"s1/{n - 1 - i}" for i in range(n)], "score": [1.5] * n, "tile": [b"t"] * n,
        "reconstruction": list(reconstructions),
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
    files = slide_files(_result(_evidence(b"r", b"r")), sd.panel())
    names = ["thumbnail", "heatmap", "tile_0", "reconstruction_0", "tile_1", "reconstruction_1"]
    assert files.keys() == {"evidence/s1.svg", "masks/s1.geojson"}
    assert sorted(_names(files["evidence/s1.svg"])) == sorted(names)
    assert tiles_path(sd.panel()[0], "s1") == "tiles/s1.parquet"


def test_a_detector_without_pictures_has_no_reconstruction_and_says_so() -> None:
    result = _result(_evidence(b"r"), _evidence(None, None))
    bundles = sd.panel(sd.Bundle("a", "a"), sd.Bundle("b", "b"))
    files = slide_files(result, bundles)
    assert files.keys() == {"a/evidence/s1.svg", "b/evidence/s1.svg", "masks/s1.geojson"}
    assert _names(files["b/evidence/s1.svg"]) == ["thumbnail", "heatmap", "tile_0", "tile_1"]
    assert _names(files["a/evidence/s1.svg"]) == ["thumbnail", "heatmap", "tile_0", "reconstruction_0"]
    assert [tile.get("has_reconstruction") for tile in top_tiles(result.of_bundle(1), sd.CALIBRATION)] == [False, False]
    assert top_tiles(result.of_bundle(0), sd.CALIBRATION) == [
        {"tile_id": "s1/0", "x_level0_px": 0, "y_level0_px": 0, "score": 1.5},
    ]  # fmt: skip


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
