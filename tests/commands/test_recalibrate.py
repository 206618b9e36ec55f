"""`uadray recalibrate` on real screenings of painted slides by two bundles, without Ray."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import drifting_slides
import endpoint_parts
import pyarrow.parquet as pq
import pytest
import small_screening

import uadray.commands.progress
from uadray.commands.recalibrate import Asked, run
from uadray.decisions.conformal import Calibration
from uadray.errors import InputError
from uadray.evaluation.report import evaluate
from uadray.monitoring.ledger_metrics import LedgerReader
from uadray.screening.bundles import arranged, calibrated_bundle
from uadray.screening.ledger import open_ledger
from uadray.slides.manifest import SlideRow, write_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`one` is screened by one bundle, `two` and `normals` by two; `normals.csv` has patients and sites."""
    home = tmp_path_factory.mktemp("recalibrated")
    uris = [endpoint_parts.write_calibrated(home, name=name, seed=seed) for seed, name in enumerate("ab")]
    rows = small_screening.painted_rows(home / "slides")
    normals = drifting_slides.painted(home / "painted", [0, 0, 1, 1, 0, 1, 0, 1], prefix="n")
    normals = [replace(r, site="NS"[i % 2], patient_id=f"p{min(i, 6)}", label="normal") for i, r in enumerate(normals)]
    write_manifest(normals, str(home / "normals.csv"))
    small_screening.screen_here(str(home / "one"), uris[:1], rows)
    small_screening.screen_here(str(home / "two"), uris, rows)
    small_screening.screen_here(str(home / "normals"), uris, normals)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uadray.commands.progress, "divert", lambda: None)
        yield home


def _table(uri: Path | str) -> list[dict[str, Any]]:
    return list(pq.read_table(f"{uri}/decisions.parquet").to_pylist())


def _record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text()))


def test_another_alpha_keeps_scores(folder: Path) -> None:
    out = folder / "one"
    before = _table(out)
    summary = run(str(out), Asked(alpha=0.5))
    after = _table(out)
    assert [row["score"] for row in after] == [row["score"] for row in before]
    assert [row["p_value"] for row in after] == [row["p_value"] for row in before]
    assert {row["alpha"] for row in after if row["state"] == "scored"} == {0.5}
    name = summary["calibrations"]["a"]
    assert Calibration.model_validate_json((out / "recalibrated" / name / "calibration.json").read_bytes()).alpha == 0.5
    assert Calibration.model_validate_json((out / "recalibrated/cal0/calibration.json").read_bytes()).alpha == 0.25
    assert _record(out)["calibration_id"] == name
    with open_ledger(str(out), arranged([calibrated_bundle(str(folder / "a"))])) as book:
        assert book.bundles[0].calibration.alpha == 0.5
    (numbers,) = LedgerReader(str(out)).read().bundles
    assert numbers.calibration is not None
    assert numbers.calibration.id == name
    assert run(str(out), Asked())["calibrations"] == {"a": "cal0"}  # what the bundle has


def test_from_a_screening_of_normals_by_site_with_a_list(folder: Path) -> None:
    out = folder / "one"
    asked = Asked(normals=str(folder / "normals"), slides=str(folder / "normals.csv"), by="site", method="top",
                  alpha=0.25, fdr=0.5)  # fmt: skip
    summary = run(str(out), asked)
    calibration = open_ledger(str(out), [calibrated_bundle(str(folder / "a"))]).bundles[0].calibration
    assert calibration.id == summary["calibrations"]["a"]
    assert len(calibration.scores) == 7  # patients
    assert {group.values["site"]: len(group.scores) for group in calibration.groups} == {"N": 4, "S": 4}
    assert calibration.aggregation.method == "top"
    assert len(calibration.normals) == 7
    rows = [row for row in _table(out) if row["state"] == "scored"]
    assert {row["calibration_group"] for row in rows} == {"pool"}
    assert all("judged by the pool" in row["message"] for row in rows)
    assert all(row["q_value"] is not None for row in rows)
    assert (out / "discoveries.csv").exists()
    assert summary["fdr"] == 0.5
    run(str(out), Asked())
    assert not (out / "discoveries.csv").exists()
    assert "fdr" not in _record(out)


def test_normal_slides_that_are_screened_again_are_marked(folder: Path) -> None:
    """Their own scores are among those that they are compared with."""
    asked = Asked(normals=str(folder / "normals"), slides=str(folder / "normals.csv"))
    run(str(folder / "normals"), asked)
    rows = _table(folder / "normals" / "a")
    assert {row["note"] for row in rows} == {"calibration"}
    assert {row["q_value"] for row in rows} == {None}
    assert len({row["p_value"] for row in rows}) > 4


def test_several_bundles_get_a_calibration_of_all_together(folder: Path) -> None:
    out = folder / "two"
    merged = [row for row in _table(out / "combined") if row["state"] == "scored"]
    assert all("merged by Bonferroni" in row["message"] for row in merged)
    asked = Asked(normals=str(folder / "normals"), slides=str(folder / "normals.csv"), combine="mean")
    run(str(out), asked)
    rows = [row for row in _table(out / "combined") if row["state"] == "scored"]
    assert len(rows) == len(merged) == 3
    assert {row["calibration_group_slides"] for row in rows} == {7}
    assert {row["calibration_id"] for row in rows} == {_record(out)["combined"]["id"]}
    assert all(row["score"] > row["threshold"] or row["decision"] == "normal" for row in rows)
    labelled = [SlideRow(row["slide_id"], row["uri"], label="tumor" if i else "normal") for i, row in enumerate(rows)]
    write_manifest(labelled, str(folder / "labelled.csv"))
    figures = evaluate(str(out / "combined"), labels=str(folder / "labelled.csv"))
    assert (figures["n_normal"], figures["n_anomalous"], figures["tile_auroc"]) == (1, 2, None)
    run(str(out), Asked(alpha=0.3))
    assert all("merged" in row["message"] for row in _table(out / "combined") if row["state"] == "scored")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(alpha=0.1), "needs at least 9 normal slides"),
        (Asked(by="site"), "does not know which of its slides"),
        (Asked(by="colour"), "expected some of site, scanner, stain"),
        (Asked(method="top"), "--normals"),
        (Asked(normals="x"), "go together"),
        (Asked(fdr=2), "between 0 and 1"),
        (Asked(fdr=0.1), "6 are missing"),
        (Asked(combine="product"), "maximum or mean"),
    ],
)
def test_what_cannot_be_had_is_refused_and_nothing_is_changed(folder: Path, asked: Asked, message: str) -> None:
    before = (folder / "one" / "run.json").read_bytes()
    with pytest.raises(InputError, match=message):
        run(str(folder / "one"), asked)
    assert (folder / "one" / "run.json").read_bytes() == before


def test_bundles_that_are_not_of_the_folder_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="has not screened this folder"):
        run(str(folder / "one"), Asked(bundle_uris=(str(folder / "b"),)))
    with pytest.raises(InputError, match="there is no screening"):
        run(str(folder / "nothing"), Asked())
