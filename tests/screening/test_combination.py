"""Several bundles' decisions as one of each slide, in the folder `combined`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import screening_drivers as sd
from decision_rows import scored, unscored

from uadray.decisions.combined import CombinedCalibration, combined_calibration
from uadray.errors import InputError
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.combination import combined_decisions, keep_combination, read_combination
from uadray.screening.summary import write_summaries

NORMALS = tuple(np.linspace(0, 1, 19).tolist())


def _bundles(alpha: float = 0.1) -> tuple[ScreeningBundle, ...]:
    calibration = sd.CALIBRATION.model_copy(update={"scores": NORMALS, "alpha": alpha})
    return tuple(
        replace(each, calibration=calibration.model_copy(update={"id": f"c{each.folder}"}))
        for each in sd.panel(sd.Bundle("a", "a"), sd.Bundle("b", "b"))
    )


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([dict.fromkeys(SLIDE_DECISIONS.names) | row for row in rows], schema=SLIDE_DECISIONS)


def _tables() -> list[pa.Table]:
    a = [scored("s0", "normal", 0.5, 0.4, calibration_holds=True, pictures="evidence/s0.svg"),
         scored("s1", "anomalous", 0.05, 2.0, calibration_holds=True, pictures="evidence/s1.svg"),
         unscored("s2", "failed", "scoring", "boom"), unscored("s3", "not_assessable", "no_stain", "white"),
         scored("s4", "normal", 0.3, 0.8, note="calibration")]  # fmt: skip
    b = [scored("s0", "normal", 0.4, 0.6, calibration_holds=True, pictures="evidence/s0.svg"),
         scored("s1", "normal", 0.9, 0.1, calibration_holds=False, pictures="evidence/s1.svg"),
         scored("s2", "normal", 0.9, 0.1), unscored("s3", "not_assessable", "no_stain", "white"),
         scored("s4", "normal", 0.3, 0.8, note="calibration")]  # fmt: skip
    return [_table(a), _table(b)]


def _calibration(bundles: Sequence[ScreeningBundle], alpha: float = 0.1) -> CombinedCalibration:
    scores = np.random.default_rng(0).uniform(size=(29, 2))
    ids, calibrations = (tuple(name) for name in zip(*((e.bundle.id, e.calibration.id) for e in bundles), strict=True))
    return combined_calibration(scores, bundle_ids=ids, calibration_ids=calibrations, by="maximum", alpha=alpha)


def test_without_a_calibration_p_values_are_merged_and_each_decision_says_so() -> None:
    rows = combined_decisions(_bundles(), _tables(), by="maximum", calibration=None).to_pylist()
    assert [row["state"] for row in rows] == ["scored", "scored", "failed", "not_assessable", "scored"]
    assert [row["p_value"] for row in rows] == [0.8, 0.1, None, None, 0.6]
    assert [row["decision"] for row in rows] == ["normal", "anomalous", None, "not_assessable", "normal"]
    assert "merged by Bonferroni" in rows[0]["message"]
    assert rows[0]["calibration_group_slides"] == 19
    assert rows[0]["calibration_id"].startswith("merged-")
    assert (rows[2]["reason"], rows[2]["message"]) == ("scoring", "a: boom")
    assert rows[0]["false_alarm_low"] is None
    mean = combined_decisions(_bundles(), _tables(), by="mean", calibration=None).to_pylist()
    assert [row["p_value"] for row in mean][:2] == pytest.approx([0.9, 0.95])


def test_what_a_row_says_of_the_slide() -> None:
    rows = combined_decisions(_bundles(), _tables(), by="maximum", calibration=None).to_pylist()
    assert [row["pictures"] for row in rows][:2] == ["../b/evidence/s0.svg", "../a/evidence/s1.svg"]
    assert [row["calibration_holds"] for row in rows][:2] == [True, False]
    assert [row["note"] for row in rows] == [None, None, None, None, "calibration"]
    assert [row["q_value"] for row in rows] == [0.8, 0.2, None, None, None]  # of the two that are news
    assert (rows[0]["mpp_level0"], rows[0]["n_tiles"]) == (0.5, 10)


def test_with_a_calibration() -> None:
    bundles = _bundles()
    calibration = _calibration(bundles)
    row = combined_decisions(bundles, _tables(), by="maximum", calibration=calibration).to_pylist()[1]
    assert (row["p_value"], row["decision"], row["calibration_id"]) == (1 / 30, "anomalous", calibration.id)
    assert row["score"] > row["threshold"]
    assert (row["calibration_group"], row["calibration_group_slides"]) == ("pool", 29)
    assert row["false_alarm_low"] < 0.1 < row["false_alarm_high"]


def test_bundles_in_another_order_than_in_the_calibration() -> None:
    bundles = _bundles()
    calibration = _calibration(bundles)
    turned = calibration.model_copy(update={
        "bundle_ids": calibration.bundle_ids[::-1], "calibration_ids": calibration.calibration_ids[::-1],
        "scores": tuple(each[::-1] for each in calibration.scores),
    })  # fmt: skip
    one, other = (combined_decisions(bundles, _tables(), by="maximum", calibration=each).select(["p_value", "score"])
                  for each in (calibration, turned))  # fmt: skip
    assert one["p_value"].equals(other["p_value"])
    np.testing.assert_allclose(one["score"].to_pylist()[1], other["score"].to_pylist()[1])


def test_a_calibration_counts_only_for_the_calibrations_that_it_was_made_with(tmp_path: Path) -> None:
    out, bundles = str(tmp_path), _bundles()
    calibration = _calibration(bundles)
    keep_combination(out, calibration)
    record = {"combined": {"by": "mean", "id": calibration.id}}
    assert read_combination(out, record, bundles) == ("mean", calibration)
    again = [replace(bundles[0], calibration=sd.CALIBRATION), bundles[1]]
    assert read_combination(out, record, again) == ("mean", None)
    assert read_combination(out, {}, bundles) == ("maximum", None)
    assert read_combination(out, {"combined": {"by": "x", "id": "gone"}}, bundles) == ("maximum", None)
    with pytest.raises(InputError, match="no id"):
        read_combination(out, {"combined": {"id": "../../x"}}, bundles)
    Path(out, "recalibrated", calibration.id, "combined.json").write_text("[" * 10_000)
    with pytest.raises(InputError, match="not JSON"):
        read_combination(out, record, bundles)


def test_files_for_people(tmp_path: Path) -> None:
    provenance = {"fingerprint": "f", "started": "2026-01-01 00:00 UTC", "fdr": 0.5}
    summary = write_summaries(str(tmp_path), _bundles(), _tables(), n_slides=5, provenance=provenance)
    assert {path.name for path in (tmp_path / "combined").iterdir()} >= {
        "decisions.parquet", "discoveries.csv", "summary.json", "worklist.csv", "worklist.html",
    }  # fmt: skip
    combined = json.loads((tmp_path / "summary.json").read_text())["combined"]
    assert (combined["anomalous"], combined["failed"]) == (1, 1)
    assert (combined["by"], combined["calibrated"]) == ("maximum", False)
    assert combined["smallest_p_value"] == pytest.approx(0.1)
    assert summary["anomalous"] == {"a": 1, "b": 0}
    assert '"../a/evidence/s1.svg#thumbnail"' in (tmp_path / "combined" / "worklist.html").read_text()
    assert (tmp_path / "combined" / "discoveries.csv").read_text().count("\n") == 2


def test_a_decision_without_a_p_value_is_no_normal_slide() -> None:
    tables = [
        _table([scored("s0", "normal", 0.5, 0.4)]),
        _table([scored("s0", "normal", 0.5, 0.4) | {"p_value": None}]),
    ]
    (row,) = combined_decisions(_bundles(), tables, by="maximum", calibration=None).to_pylist()
    assert (row["state"], row["decision"], row["reason"]) == ("failed", None, "no_p_value")
