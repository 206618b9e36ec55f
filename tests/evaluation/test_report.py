"""`evaluate` on files as `score` and `screen` leave them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm

from uadray.errors import InputError
from uadray.evaluation.report import evaluate, evaluate_scores, evaluate_screening, evaluation_page, is_anomalous
from uadray.schemas import SLIDE_DECISIONS, TILE_SCORES
from uadray.slides.manifest import SlideRow, write_manifest


def _scores(tmp_path: Path, **columns: list[Any]) -> str:
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_scores_by_hand(tmp_path: Path) -> None:
    """Normal 1 and 3, anomalous 2, 4 and 5: five of six pairs in order. One tile has no score."""
    uri = _scores(
        tmp_path,
        tile_id=["a", "b", "c", "d", "e", "f"],
        label=["normal", "Normal", "tumor", "tumor", "fold", "tumor"],
        score=[1.0, 3.0, 2.0, 4.0, 5.0, None],
        mean_saturation=[0.1, 0.2, 0.3, 0.4, 0.5, None],
        mean_green=[0.1, 0.2, 0.3, 0.4, 0.5, None],
    )
    result = evaluate(uri)
    assert result["auroc"] == pytest.approx(5 / 6)
    assert (result["n_normal"], result["n_anomalous"], result["n_unscored"]) == (2, 3, 1)
    assert result["trivial"] == {"mean_saturation": 1.0, "minus_mean_green": 0.0}
    assert result["page"] == str(tmp_path / "scores.html")
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written == {key: value for key, value in result.items() if key != "page"}
    assert "0.833" in (tmp_path / "scores.html").read_text()


def test_nan_is_no_score_and_is_counted() -> None:
    labels = ["normal", "tumor", "tumor", "normal", "tumor"]
    table = pa.table({"label": labels, "score": [1.0, 2.0, float("nan"), None, float("inf")]})
    result = evaluate_scores(table)
    assert (result["auroc"], result["n_unscored"], result["n_not_finite"]) == (1.0, 3, 2)
    assert result["trivial"] == {}


def test_a_trivial_score_that_is_missing_is_left_out_of_its_figure() -> None:
    table = pa.table({"label": ["normal", "tumor", "tumor"], "score": [1.0, 2.0, 3.0], "mean_green": [0.5, None, 0.4]})
    assert evaluate_scores(table)["trivial"] == {"minus_mean_green": 1.0}


SHIFT, OF_PATIENT, OF_SLIDE, OF_TILE = 1.2, 0.8, 0.6, 0.5
TRUE_AUROC = float(norm.cdf(SHIFT / np.sqrt(2 * (OF_PATIENT**2 + OF_SLIDE**2 + OF_TILE**2))))


def _clustered(rng: np.random.Generator, *, tiles: int = 12) -> tuple[pa.Table, list[SlideRow]]:
    """Tiles of two slides of each of 24 patients, half of them ill: what patient and slide have in common is most."""
    patient = rng.normal(size=24) * OF_PATIENT + SHIFT * (np.arange(24) % 2)
    slide = np.repeat(patient, 2) + rng.normal(size=48) * OF_SLIDE
    scores = np.repeat(slide, tiles) + rng.normal(size=48 * tiles) * OF_TILE
    rows = [
        SlideRow(f"s{i}", f"s{i}.tif", patient_id=f"p{i // 2}", label=("normal", "tumor")[i // 2 % 2])
        for i in range(48)
    ]
    ids = [f"s{i}/x{96 * j}_y0_96px_1mpp" for i in range(48) for j in range(tiles)]
    labels = [row.label for row in rows for _ in range(tiles)]
    return pa.table({"tile_id": ids, "label": labels, "score": scores}), rows


def test_the_interval_of_clustered_tiles_holds_the_truth() -> None:
    """Tiles of a slide, and slides of a patient, are drawn together; each tile by itself, one in four would hold it."""
    rng, hits, alone = np.random.default_rng(3), 0, 0
    for _ in range(40):
        table, rows = _clustered(rng)
        low, high = evaluate_scores(table, rows)["auroc_ci95"]
        hits += low <= TRUE_AUROC <= high
        low, high = evaluate_scores(table.drop_columns(["tile_id"]))["auroc_ci95"]
        alone += low <= TRUE_AUROC <= high
    assert hits >= 34, "85 %"
    assert alone <= 20, "the clusters are too weak for this test to mean something"


def test_the_answer_says_what_was_drawn_together(tmp_path: Path) -> None:
    table, rows = _clustered(np.random.default_rng(0), tiles=3)
    uri = str(tmp_path / "scores.parquet")
    pq.write_table(table, uri)
    manifest = str(tmp_path / "m.csv")
    write_manifest(rows, manifest)
    by_patient, by_slide = evaluate(uri, labels=manifest), evaluate(uri)
    assert (by_patient["grouped_by"], by_patient["n_groups"]) == ("patient", 24)
    assert (by_slide["grouped_by"], by_slide["n_groups"]) == ("slide", 48)
    widths = [r["auroc_ci95"][1] - r["auroc_ci95"][0] for r in (by_patient, by_slide)]
    assert widths[0] > 1.1 * widths[1]
    named = table.drop_columns(["tile_id"]).append_column(
        "slide_id", pa.array([f"s{i // 3}" for i in range(len(table))])
    )
    assert evaluate_scores(named)["auroc_ci95"] == by_slide["auroc_ci95"]
    folder = evaluate_scores(table.set_column(0, "tile_id", pa.array([f"normal/{i}.png" for i in range(len(table))])))
    assert (folder["grouped_by"], folder["n_groups"]) == ("tile", len(table))


def test_a_manifest_labels_tiles_that_have_none_and_must_be_the_right_one() -> None:
    table, rows = _clustered(np.random.default_rng(0), tiles=2)
    bare = table.set_column(1, "label", pa.nulls(len(table), pa.string()))
    assert evaluate_scores(bare, rows)["auroc"] == evaluate_scores(table, rows)["auroc"]
    with pytest.raises(InputError, match="every tile needs a label"):
        evaluate_scores(bare, [row for row in rows if row.slide_id != "s3"])
    with pytest.raises(InputError, match="none of the slides of --labels is among them"):
        evaluate_scores(table, [SlideRow("other", "o.tif", patient_id="p1", label="normal")])


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="the column score has string, expected numbers"):
        evaluate_scores(pa.table({"label": ["normal", "tumor"], "score": ["low", "high"]}))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"score": [1.0]}, "no column label; found score"),
        ({"a": [1]}, "no column label and score; found a"),
        ({"label": ["normal", None], "score": [1.0, 2.0]}, "every tile needs a label"),
        ({"label": ["normal", ""], "score": [1.0, 2.0]}, "every tile needs a label"),
        ({"label": ["normal", "normal"], "score": [1.0, 2.0]}, "found 2 normal and 0 anomalous"),
        ({"label": ["normal", "tumor"], "score": pa.array([None, None], pa.float64())}, "found 0 normal and 0"),
    ],
)
def test_scores_that_cannot_be_evaluated(tmp_path: Path, columns: dict[str, Any], expected: str) -> None:
    uri = _scores(tmp_path, **columns)
    with pytest.raises(InputError, match=expected):
        evaluate(uri)
    assert not (tmp_path / "scores.json").exists()


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        evaluate(str(tmp_path / "none.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a Parquet file"):
        evaluate(str(tmp_path / "bad.parquet"))


@pytest.mark.parametrize(("label", "expected"), [("normal", False), ("NORMAL", False), ("tumor", True), ("fold", True)])
def test_every_label_but_normal_is_anomalous(label: str, expected: bool) -> None:
    assert is_anomalous(label) == expected


def test_the_page_escapes_html() -> None:
    page = evaluation_page("<script>alert(1)</script>&", {"<b>key</b>": "<i>value</i>", "nested": {"<u>": None}})
    assert not any(tag in page for tag in ("<script", "<b>", "<i>", "<u>"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page
    assert "nested: &lt;u&gt;" in page


def test_the_page_rounds_and_says_what_is_missing() -> None:
    page = evaluation_page("t", {"auroc": 0.98765, "auroc_ci95": [0.9, 1.0], "tile_auroc": None, "n_normal": 12})
    for cell in ("0.988", "0.900 to 1.000", "<td>-</td>", "<td>12</td>", "auroc ci95"):
        assert cell in page


def _decision(slide_id: str, state: str, score: float | None, decision: str | None) -> dict[str, Any]:
    values = dict.fromkeys(SLIDE_DECISIONS.names)
    return values | {
        "slide_id": slide_id, "uri": f"{slide_id}.tif", "state": state, "score": score, "decision": decision,
        "alpha": 0.1, "fingerprint": "f",
    }  # fmt: skip


def _tile_table(slide_id: str, scores: list[float | None]) -> pa.Table:
    """A row of tiles of 10 px from the left."""
    n = len(scores)
    columns: dict[str, Any] = {
        "tile_id": [f"{slide_id}/{i}" for i in range(n)], "slide_id": [slide_id] * n,
        "x_level0_px": [10 * i for i in range(n)], "y_level0_px": [0] * n, "width_level0_px": [10] * n,
        "height_level0_px": [10] * n, "tissue_fraction": [1.0] * n, "band": ["tissue"] * n, "score": scores,
        "mean_saturation": [0.5] * n, "mean_green": [0.5] * n, "flag": [None] * n,
        "error": [None if s is not None else "broken" for s in scores],
    }  # fmt: skip
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in TILE_SCORES}, schema=TILE_SCORES)


@pytest.fixture
def screening(tmp_path: Path) -> tuple[str, str]:
    """Four slides: normal, a false alarm, a lesion that was found, and one that failed."""
    out, slides = tmp_path / "out", tmp_path / "slides"
    (out / "tiles").mkdir(parents=True)
    slides.mkdir()
    rows = [
        _decision("n1", "scored", 1.0, "normal"),
        _decision("n2", "scored", 3.0, "anomalous"),
        _decision("t1", "scored", 4.0, "anomalous"),
        _decision("t2", "failed", None, None),
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SLIDE_DECISIONS), out / "decisions.parquet")
    for name, scores in (("n1", [0.1, 0.2]), ("n2", [0.3, 0.4, None, float("nan")]), ("t1", [0.2, 0.9, 0.5, None])):
        pq.write_table(_tile_table(name, scores), out / "tiles" / f"{name}.parquet")
    manifest = slides / "manifest.csv"
    lines = [f"{i},{i}.tif,{label}" for i, label in (("n1", "normal"), ("n2", "normal"), ("t1", "tumor"))]
    manifest.write_text("\n".join(["slide_id,uri,label", *lines, "t2,t2.tif,tumor", "x,x.tif,normal"]) + "\n")
    return str(out), str(manifest)


def test_screening_by_slide(screening: tuple[str, str]) -> None:
    out, manifest = screening
    result = evaluate(out, labels=manifest)
    assert (result["slide_auroc"], result["n_normal"], result["n_anomalous"]) == (1.0, 2, 1)
    assert (result["slides_not_scored"], result["false_alarms"], result["found"], result["alpha"]) == (1, 1, 1, 0.1)
    assert (result["tile_auroc"], result["tiles_note"]) == (None, "no outlines found")
    assert Path(result["page"]) == Path(out) / "evaluation.html"
    assert json.loads((Path(out) / "evaluation.json").read_text())["slide_auroc"] == 1.0


def test_screening_by_tile(screening: tuple[str, str], tmp_path: Path) -> None:
    """t1's lesion covers its second tile and 3 of 10 pixels of the third, which is left out."""
    out, manifest = screening
    ring = [[10, 0], [23, 0], [23, 10], [10, 10], [10, 0]]
    (tmp_path / "outlines").mkdir()
    (tmp_path / "outlines" / "t1.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    result = evaluate(out, labels=manifest, outlines=str(tmp_path / "outlines"))
    assert result["tile_auroc"] == 1.0
    tiles = result["tiles"]
    assert (tiles["n_normal"], tiles["n_anomalous"], tiles["n_left_out"]) == (5, 1, 1)
    assert (tiles["grouped_by"], tiles["n_groups"], tiles["n_not_finite"]) == ("slide", 3, 1)
    assert result["trivial"] == {"mean_saturation": 0.5, "minus_mean_green": 0.5}


def test_slides_of_a_patient_are_drawn_together_and_a_score_of_nan_is_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, decisions = [], []
    for i in range(24):
        label, score = ("normal", "tumor")[i // 6 % 2], float(rng.normal() + (i // 6 % 2))
        rows.append(SlideRow(f"s{i}", f"s{i}.tif", patient_id=f"p{i // 3}", label=label))
        decisions.append(_decision(f"s{i}", "scored", float("nan") if i == 4 else score, "normal"))
    pq.write_table(pa.Table.from_pylist(decisions, schema=SLIDE_DECISIONS), tmp_path / "decisions.parquet")
    grouped = evaluate_screening(str(tmp_path), rows)
    alone = evaluate_screening(str(tmp_path), [replace(row, patient_id=None) for row in rows])
    assert (grouped["grouped_by"], grouped["n_groups"], grouped["slides_not_finite"]) == ("patient", 8, 1)
    assert (alone["grouped_by"], alone["n_groups"]) == ("slide", 23)
    assert (grouped["n_normal"], grouped["n_anomalous"], grouped["slides_not_scored"]) == (11, 12, 1)
    assert grouped["auroc_ci95"] != alone["auroc_ci95"]


def test_screening_needs_labels(screening: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs --labels MANIFEST"):
        evaluate(screening[0])
    other = tmp_path / "other.csv"
    other.write_text("slide_id,uri,label\nq,q.tif,normal\n")
    with pytest.raises(InputError, match="no slide of the manifest was screened there"):
        evaluate(screening[0], labels=str(other))
