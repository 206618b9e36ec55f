"""What a reader tells of a slide reaches its decision, and is what the tiles say."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import endpoint_parts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_screening

from uadray.decisions.slide_measures import MEASURES
from uadray.screening.decision_segments import read_decisions
from uadray.screening.slide_reader import good_focus
from uadray.tiles.chunks import TileChunk


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three painted slides and a file that is none, screened by two bundles."""
    folder = tmp_path_factory.mktemp("screening")
    bundles = [endpoint_parts.write_calibrated(folder, name=name, seed=seed) for seed, name in enumerate("ab")]
    small_screening.screen_here(str(folder / "out"), bundles, small_screening.painted_rows(folder))
    return str(folder / "out")


def test_focus_is_of_good_tiles_that_can_be_judged() -> None:
    focus = np.array([1.23456, 2.0, np.nan, 4.0])
    chunk = TileChunk(pa.table({"tile_id": list("abcd")}), np.zeros((4, 2, 2, 3), np.uint8),
                      [None, "torn", None, None], [None, None, None, "out_of_focus"], focus)  # fmt: skip
    assert good_focus(chunk) == [1.235]


def test_a_decision_tells_of_its_slide_what_its_tiles_say(out: str) -> None:
    record = json.loads(Path(out, "decisions", "a.json").read_text())
    for decision in record["decisions"]:
        tiles = pq.read_table(Path(out, decision["bundle"], "tiles", "a.parquet"))
        scored = tiles.filter(tiles["score"].is_valid())
        assert decision["tile_score_median"] == pytest.approx(np.median(scored["score"]))
        assert decision["saturation"] == pytest.approx(np.median(scored["mean_saturation"]))
        assert decision["green"] == pytest.approx(np.median(scored["mean_green"]))
        assert decision["tissue_share"] == pytest.approx(len(tiles) / 15**2)  # 700 um in tiles of 48 um
        assert 0.4 < decision["focus"] < 10
        assert decision["read_seconds"] > 0
        assert decision["score_seconds"] > 0
    first, second = record["decisions"]
    assert first["tile_score_median"] != second["tile_score_median"]
    assert first["focus"] == second["focus"]


def test_decisions_tell_when_and_how_long_and_failures_nothing_of_tissue(out: str) -> None:
    table = read_decisions(out).table
    for row in table.to_pylist():
        age = datetime.now(UTC) - datetime.fromisoformat(row["decided_at"])
        assert timedelta(0) <= age < timedelta(minutes=5)
        assert row["read_seconds"] > 0
        is_failed = row["slide_id"] == "broken"
        assert (row["state"] == "failed") == is_failed
        assert all((row[name] is None) == is_failed for name in (*MEASURES, "score_seconds")), row


def test_slides_of_a_patient_have_one_mark_that_does_not_name_the_patient(tmp_path: Path) -> None:
    bundle = endpoint_parts.write_calibrated(tmp_path)
    rows = small_screening.painted_rows(tmp_path / "slides")
    named = [replace(row, patient_id=patient) for row, patient in zip(rows, ("P7", "P7", "P8", None), strict=True)]
    small_screening.screen_here(str(tmp_path / "out"), [bundle], named)
    marks = {row["slide_id"]: row["patient"] for row in read_decisions(str(tmp_path / "out")).table.to_pylist()}
    one, other, third, unknown = (marks[row.slide_id] for row in named)
    assert one == other != third
    assert third is not None
    assert unknown is None
    assert "P7" not in one
