"""Whether the stated rate holds, from slides known to be normal: by hand, and in simulated archives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from decision_rows import decision_table, scored
from scipy import stats

from uadray.errors import InputError
from uadray.evaluation.report import evaluate
from uadray.evaluation.validity_report import LEVEL, clopper_pearson, validity_report
from uadray.slides.manifest import SlideRow, write_manifest

ALPHA = 0.05


def _decision(p: float, *, n: int = 99, group: str = "pool", **more: Any) -> dict[str, Any]:
    row = {"state": "scored", "note": None, "p_value": p, "alpha": ALPHA, "calibration_group": group}
    return row | {"decision": "anomalous" if p <= ALPHA else "normal", "calibration_group_slides": n} | more


def _slides(p: list[float], **more: str) -> tuple[dict[str, dict[str, Any]], list[SlideRow]]:
    start = len(more.get("prefix", ""))
    rows = [SlideRow(f"{more.get('prefix', '')}s{i}", f"/s{i + start}.tif", **_origin(more)) for i in range(len(p))]
    return {row.slide_id: _decision(each) for row, each in zip(rows, p, strict=True)}, rows


def _origin(more: dict[str, str]) -> dict[str, Any]:
    return {name: more[name] for name in ("site", "scanner", "stain") if name in more}


def _simulated(rng: np.random.Generator, n: int, m: int, shift: float) -> list[float]:
    normals, scores = np.sort(rng.normal(size=n)), rng.normal(size=m) + shift
    return list((1 + n - np.searchsorted(normals, scores)) / (n + 1))


def test_broken_at_one_scanner_and_well_at_the_other() -> None:
    good, rows = _slides([(i + 0.5) / 40 for i in range(40)], scanner="A")
    bad, more = _slides([0.02] * 9 + [0.5] * 11, scanner="X", prefix="x")
    report = validity_report(good | bad, rows + more)
    by_name = {(each["kind"], each["value"]): each for each in report["groups"]}
    x = by_name["scanner", "X"]
    assert (x["n_slides"], x["n_called"], x["verdict"]) == (20, 9, "broken")
    assert (x["rate_low"], x["rate_high"]) == pytest.approx((0.2306, 0.6847), abs=1e-4)
    chance = stats.betabinom(20, 5, 95)
    assert chance.sf(x["at_most"]) <= LEVEL / 6 < chance.sf(x["at_most"] - 1)
    assert (x["expected"], x["chance"]) == pytest.approx((1.0, chance.sf(8)))
    assert by_name["scanner", "A"]["verdict"] == "holds"
    assert report["holds"] is False
    assert f"scanner X: 9 of 20 called where at most {x['at_most']} are expected" in report["verdict"]
    assert "holds at scanner A" in report["verdict"]


def test_slides_that_say_nothing_are_left_out_and_counted() -> None:
    decisions, rows = _slides([0.5] * 25)
    decisions["s0"] |= {"note": "calibration"}
    decisions["s1"] |= {"state": "not_assessable", "p_value": None}
    del decisions["s2"]
    report = validity_report(decisions, rows)
    assert report["left_out"] == {"used for calibration": 1, "not scored": 1, "not screened": 1}
    assert (report["n_slides"], report["holds"]) == (22, True)


def test_a_patient_counts_once_in_each_group() -> None:
    decisions, rows = _slides([0.01] * 30 + [0.5] * 30)
    rows = [replace(row, patient_id="one" if i < 30 else None, site="N") for i, row in enumerate(rows)]
    report = validity_report(decisions, rows)
    assert [(each["n_slides"], each["n_called"]) for each in report["groups"]] == [(31, 1)] * 2
    assert report["n_slides"] == 60


def test_few_slides_are_no_reason_for_good_words() -> None:
    decisions, rows = _slides([0.5] * 19)
    report = validity_report(decisions, rows)
    assert report["holds"] is None
    assert "cannot be told with fewer than 20 patients at all slides together (19)" in report["verdict"]


def test_scores_that_have_moved_as_a_whole_are_seen_before_they_are_called() -> None:
    decisions, rows = _slides([0.06 + 0.5 * i / 100 for i in range(100)])
    report = validity_report(decisions, rows)
    assert report["groups"][0]["n_called"] == 0
    assert report["holds"] is False
    assert "p-values of 100 slides are too low (mean 0.31" in report["verdict"]
    assert report["ks_distance"] == pytest.approx(0.445, abs=0.01)


def test_the_curve_is_the_share_of_slides_with_at_most_p() -> None:
    decisions, rows = _slides([0.1, 0.2, 0.2, 0.9])
    curve = dict(map(tuple, validity_report(decisions, rows)["curve"]))
    assert (curve[0.0], curve[0.15], curve[0.5], curve[1.0]) == (0.0, 0.25, 0.75, 1.0)


def test_the_report_of_a_folder_and_its_page(tmp_path: Path) -> None:
    """A slide that was screened out of its folder has another id there, and is known by its URI."""
    p = [0.02] * 12 + [0.5] * 12
    rows = [scored(f"s{i}", "anomalous" if e <= 0.1 else "normal", e, 1.0, calibration_group="pool",
                   calibration_group_slides=60) for i, e in enumerate(p)]  # fmt: skip
    pq.write_table(decision_table(*rows), tmp_path / "decisions.parquet")
    manifest = [SlideRow(f"m{i}", row["uri"], scanner="<X>") for i, row in enumerate(rows)]
    write_manifest(manifest, str(tmp_path / "normals.csv"))
    figures = evaluate(str(tmp_path), normals=str(tmp_path / "normals.csv"))
    assert figures["validity"] == json.loads((tmp_path / "evaluation.json").read_text())["validity"]
    assert figures["validity"]["holds"] is False
    page = (tmp_path / "evaluation.html").read_text()
    assert "12 of 24" in page
    assert "scanner &lt;X&gt;" in page
    assert "<X>" not in page
    with pytest.raises(InputError, match="--labels"):
        evaluate(str(tmp_path), normals=str(tmp_path / "normals.csv"), budget=40)
    with pytest.raises(InputError, match="of the slides of a screening"):
        evaluate(str(tmp_path / "scores.parquet"), normals=str(tmp_path / "normals.csv"))


def test_what_cannot_be_judged_is_refused() -> None:
    decisions, rows = _slides([0.5] * 20)
    with pytest.raises(InputError, match="labelled otherwise: s0"):
        validity_report(decisions, [replace(row, label="tumor") for row in rows])
    with pytest.raises(InputError, match="20 not screened"):
        validity_report({}, rows)
    with pytest.raises(InputError, match="several alphas"):
        validity_report(decisions | {"s0": _decision(0.5, alpha=0.1)}, rows)


@pytest.mark.parametrize(("called", "n"), [(0, 5), (5, 5), (3, 17)])
def test_intervals_are_those_of_scipy(called: int, n: int) -> None:
    ends = stats.binomtest(called, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(called, n) == pytest.approx((ends.low, ends.high))


@pytest.mark.parametrize("n", [19, 60, 300])
def test_a_calibration_that_holds_is_seldom_called_broken(n: int) -> None:
    """100 archives of 120 slides at two sites, each with a calibration of its own."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(100):
        p = _simulated(rng, n, 120, 0.0)
        rows = [SlideRow(f"s{i}", "/x.tif", site="N" if i % 3 else "S") for i in range(120)]
        decisions = {row.slide_id: _decision(each, n=n) for row, each in zip(rows, p, strict=True)}
        broken += validity_report(decisions, rows)["holds"] is False
    assert broken / 100 <= LEVEL + 3 * np.sqrt(LEVEL / 100)


def test_scores_shifted_by_half_a_deviation_are_called_broken() -> None:
    rng, broken = np.random.default_rng(1), 0
    for _ in range(100):
        decisions, rows = _slides([])
        p = _simulated(rng, 200, 200, 0.5)
        decisions, rows = _slides(p)
        report = validity_report({i: each | {"calibration_group_slides": 200} for i, each in decisions.items()}, rows)
        broken += report["holds"] is False
    assert broken >= 97
