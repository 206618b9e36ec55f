"""Figures of tables: what is drawn together, what is no score, which labels are anomalous."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm

from uadray.errors import InputError
from uadray.evaluation.detection import bootstrap_ci
from uadray.evaluation.figures import figures_of_scores, is_anomalous
from uadray.slides.manifest import SlideRow


def test_nan_is_no_score_and_is_counted() -> None:
    labels = ["normal", "tumor", "tumor", "normal", "tumor"]
    table = pa.table({"label": labels, "score": [1.0, 2.0, float("nan"), None, float("inf")]})
    result = figures_of_scores(table)
    assert (result["auroc"], result["n_unscored"], result["n_not_finite"]) == (1.0, 3, 2)
    assert result["trivial"] == {}


def test_a_trivial_score_that_is_missing_is_left_out_of_its_figure() -> None:
    table = pa.table({"label": ["normal", "tumor", "tumor"], "score": [1.0, 2.0, 3.0], "mean_green": [0.5, None, 0.4]})
    assert figures_of_scores(table)["trivial"] == {"minus_mean_green": 1.0}


SHIFT, OF_PATIENT, OF_SLIDE, OF_TILE = 1.2, 0.8, 0.6, 0.5
TRUE_AUROC = float(norm.cdf(SHIFT / np.sqrt(2 * (OF_PATIENT**2 + OF_SLIDE**2 + OF_TILE**2))))


def clustered(rng: np.random.Generator, *, tiles: int = 12) -> tuple[pa.Table, list[SlideRow]]:
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
    for _ in range(30):
        table, rows = clustered(rng)
        low, high = figures_of_scores(table, rows)["auroc_ci95"]
        hits += low <= TRUE_AUROC <= high
        scores, truth = table["score"].to_numpy(), np.array([label == "tumor" for label in table["label"].to_pylist()])
        low, high = bootstrap_ci(scores, truth) or (0.0, 0.0)
        alone += low <= TRUE_AUROC <= high
    assert hits >= 25, "85 %"
    assert alone <= 15, "the clusters are too weak for this test to mean something"


def test_a_manifest_labels_tiles_that_have_none_and_must_be_the_right_one() -> None:
    table, rows = clustered(np.random.default_rng(0), tiles=2)
    bare = table.set_column(1, "label", pa.nulls(len(table), pa.string()))
    assert figures_of_scores(bare, rows)["auroc"] == figures_of_scores(table, rows)["auroc"]
    with pytest.raises(InputError, match="every tile needs a label"):
        figures_of_scores(bare, [row for row in rows if row.slide_id != "s3"])
    with pytest.raises(InputError, match="none of the slides of --labels is among them"):
        figures_of_scores(table, [SlideRow("other", "o.tif", patient_id="p1", label="normal")])


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="the column score has string, expected numbers"):
        figures_of_scores(pa.table({"label": ["normal", "tumor"], "score": ["low", "high"]}))


@pytest.mark.parametrize(("label", "expected"), [("normal", False), ("NORMAL", False), ("tumor", True), ("fold", True)])
def test_every_label_but_normal_is_anomalous(label: str, expected: bool) -> None:
    assert is_anomalous(label) == expected


def test_the_figures_say_what_was_drawn_together() -> None:
    table, rows = clustered(np.random.default_rng(0), tiles=3)
    by_patient, by_slide = figures_of_scores(table, rows), figures_of_scores(table)
    assert (by_patient["grouped_by"], by_patient["n_groups"]) == ("patient", 24)
    assert (by_slide["grouped_by"], by_slide["n_groups"]) == ("slide", 48)
    widths = [r["auroc_ci95"][1] - r["auroc_ci95"][0] for r in (by_patient, by_slide)]
    assert widths[0] > 1.1 * widths[1]
    named = table.drop_columns(["tile_id"]).append_column(
        "slide_id", pa.array([f"s{i // 3}" for i in range(len(table))])
    )
    assert figures_of_scores(named)["auroc_ci95"] == by_slide["auroc_ci95"]
    folder = figures_of_scores(table.set_column(0, "tile_id", pa.array([f"normal/{i}.png" for i in range(len(table))])))
    assert (folder["grouped_by"], folder["n_groups"]) == ("tile", len(table))
