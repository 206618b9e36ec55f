"""`evaluate` on files as `score` and `screen` leave them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uadray.errors import InputError
from uadray.evaluation.report import evaluate, evaluate_screening
from uadray.schemas import SLIDE_DECISIONS, TILE_SCORES
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest
from uadray.tiles.cells import with_cells


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


def test_a_manifest_says_which_slides_are_of_one_patient(tmp_path: Path) -> None:
    columns = {"tile_id": [f"s{i}/x{x}_y0_96px_1mpp" for i in range(8) for x in (0, 96)], "score": list(range(16))}
    uri = _scores(tmp_path, label=["normal", "tumor"] * 8, **columns)
    manifest = str(tmp_path / "m.csv")
    write_manifest([SlideRow(f"s{i}", f"s{i}.tif", patient_id=f"p{i // 2}") for i in range(8)], manifest)
    by_patient, by_slide = evaluate(uri, labels=manifest), evaluate(uri)
    assert (by_patient["grouped_by"], by_patient["n_groups"]) == ("patient", 4)
    assert (by_slide["grouped_by"], by_slide["n_groups"]) == ("slide", 8)


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


@pytest.mark.parametrize("has_cells", [False, True])
def test_screening_by_tile(screening: tuple[str, str], tmp_path: Path, has_cells: bool) -> None:
    """t1's lesion covers its second tile and 3 of 10 pixels of the third, which is left out."""
    out, manifest = screening
    if has_cells:  # of the other slides there are none, as of one whose tiles are all bad
        path = Path(out) / "tiles" / "t1.parquet"
        pq.write_table(with_cells(pq.read_table(path), np.ones((4, 6, 6), np.float32)), path)
    ring = [[10, 0], [23, 0], [23, 10], [10, 10], [10, 0]]
    (tmp_path / "outlines").mkdir()
    (tmp_path / "outlines" / "t1.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    result = evaluate(out, labels=manifest, outlines=str(tmp_path / "outlines"))
    assert result["tile_auroc"] == 1.0
    tiles = result["tiles"]
    assert (tiles["n_normal"], tiles["n_anomalous"], tiles["n_left_out"]) == (5, 1, 1)
    assert (tiles["grouped_by"], tiles["n_groups"], tiles["n_not_finite"]) == ("slide", 3, 1)
    assert result["trivial"] == {"mean_saturation": 0.5, "minus_mean_green": 0.5}


def test_slides_that_were_screened_out_of_their_folder(screening: tuple[str, str], tmp_path: Path) -> None:
    """Their ids have the suffix, unlike those of the manifest with the labels: the place tells which they are."""
    out, manifest = screening
    folder, by_id = Path(out), evaluate(out, labels=manifest)
    (folder / "tiles" / "t1.parquet").rename(folder / "tiles" / "t1.tif.parquet")
    decisions = pq.read_table(folder / "decisions.parquet").to_pylist()
    uris = {row.slide_id: row.uri for row in read_manifest(manifest)}
    for decision in decisions:
        decision["uri"] = uris[decision["slide_id"]]
    decisions[2]["slide_id"] = "t1.tif"
    pq.write_table(pa.Table.from_pylist(decisions, schema=SLIDE_DECISIONS), folder / "decisions.parquet")
    (tmp_path / "outlines").mkdir()
    outline = {"type": "Polygon", "coordinates": [[[10, 0], [20, 0], [20, 10], [10, 10], [10, 0]]]}
    (tmp_path / "outlines" / "t1.geojson").write_text(json.dumps(outline))
    by_place = evaluate(out, labels=manifest, outlines=str(tmp_path / "outlines"))
    assert {name: by_place[name] for name in ("slide_auroc", "found", "n_anomalous", "auroc_ci95")} == {
        name: by_id[name] for name in ("slide_auroc", "found", "n_anomalous", "auroc_ci95")
    }
    assert (by_place["tiles"]["n_normal"], by_place["tiles"]["n_anomalous"]) == (6, 1)


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


def test_slides_that_were_used_before_are_left_out_and_counted(screening: tuple[str, str]) -> None:
    out, manifest = screening
    decisions = pq.read_table(Path(out) / "decisions.parquet").to_pylist()
    decisions[1]["note"] = "calibration"  # the false alarm
    pq.write_table(pa.Table.from_pylist(decisions, schema=SLIDE_DECISIONS), Path(out) / "decisions.parquet")
    result = evaluate(out, labels=manifest)
    assert (result["slides_left_out"], result["n_normal"], result["false_alarms"]) == ({"calibration": 1}, 1, 0)
    for row in decisions:
        row["note"] = "training"
    pq.write_table(pa.Table.from_pylist(decisions, schema=SLIDE_DECISIONS), Path(out) / "decisions.parquet")
    with pytest.raises(InputError, match=r"all slides with a label were used before \(4 for training\)"):
        evaluate(out, labels=manifest)


def test_slides_of_one_class_are_refused(screening: tuple[str, str], tmp_path: Path) -> None:
    normals = tmp_path / "normals.csv"
    normals.write_text("slide_id,uri,label\nn1,n1.tif,normal\nn2,n2.tif,normal\n")
    with pytest.raises(InputError, match="found 2 normal and 0 anomalous"):
        evaluate(screening[0], labels=str(normals))


def test_against_another_screening_and_with_a_budget(screening: tuple[str, str], tmp_path: Path) -> None:
    """There the lesion was missed, and the slide that failed here was called."""
    out, manifest = screening
    other = tmp_path / "other"
    other.mkdir()
    rows = [
        _decision("n1", "scored", 1.0, "normal"),
        _decision("n2.tif", "scored", 3.0, "normal") | {"uri": str(tmp_path / "slides" / "n2.tif")},
        _decision("t1", "scored", 2.0, "normal"),
        _decision("t2", "scored", 9.0, "anomalous"),
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SLIDE_DECISIONS), other / "decisions.parquet")
    result = evaluate(out, labels=manifest, against=str(other), budget=2)
    found = result["comparison"]
    assert (found["slides"], found["only_here"], found["only_there"]) == (3, 0, 1)
    assert (found["figures"]["auroc"]["here"], found["figures"]["auroc"]["there"]) == (1.0, 0.5)
    assert found["calls"]["anomalous"]["only_here"] == found["calls"]["normal"]["only_here"] == 1
    plan = result["budget"]
    assert (plan["slides"], plan["unscored"], plan["unscored_anomalous"]) == (3, 1, 1)
    assert [(day["read"], day["found"]) for day in plan["days"]] == [(2, 1), (3, 1)]
    page = Path(result["page"]).read_text()
    assert f"Against {other}" in page
    assert "1 more slide could not be scored (1 of them anomalous)" in page
    with pytest.raises(InputError, match="not there; is it the output of"):
        evaluate(out, labels=manifest, against=str(tmp_path / "nowhere"))


def test_tiles_have_no_budget(tmp_path: Path) -> None:
    uri = _scores(tmp_path, label=["normal", "tumor"], score=[1.0, 2.0])
    with pytest.raises(InputError, match="--against, --budget and --normals are of the slides of a screening"):
        evaluate(uri, budget=40)


def test_each_bundle_of_a_screening_is_evaluated_by_itself(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"bundles": [{"folder": "a"}, {"folder": "b"}]}))
    write_manifest([SlideRow("s", "s.tif", label="normal")], str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match=rf"several bundles; evaluate each: {tmp_path}/a, {tmp_path}/b$"):
        evaluate(str(tmp_path), labels=str(tmp_path / "m.csv"))


def test_the_folder_of_an_endpoint(screening: tuple[str, str], tmp_path: Path) -> None:
    """It is a screening itself, beside others; where nothing was screened in it, the only other one is meant."""
    out, manifest = screening
    auroc = evaluate(out, labels=manifest)["slide_auroc"]
    (Path(out) / "run.json").write_text(json.dumps({"fingerprint": "0"}))
    endpoint = tmp_path / "endpoint"
    (endpoint / "jobs").mkdir(parents=True)
    shutil.copytree(out, endpoint / "screenings" / "1f")
    result = evaluate(str(endpoint), labels=manifest)
    assert (result["slide_auroc"], result["page"]) == (auroc, str(endpoint / "screenings" / "1f" / "evaluation.html"))
    shutil.copytree(out, endpoint / "screenings" / "2f")
    with pytest.raises(InputError, match=rf"evaluate one: {endpoint}/screenings/1f, .*/2f$"):
        evaluate(str(endpoint), labels=manifest)
    shutil.copytree(out, endpoint, dirs_exist_ok=True)
    assert evaluate(str(endpoint), labels=manifest)["page"] == str(endpoint / "evaluation.html")
    with pytest.raises(InputError, match="not there; is it the output of"):
        evaluate(str(tmp_path / "nothing"), labels=manifest)
