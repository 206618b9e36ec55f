"""FROC and AUPRO of screenings, as `uadray evaluate` says them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from tile_grids import STEP, grid_tiles

from uadray.config import parse_config
from uadray.errors import InputError
from uadray.evaluation.localisation import figures_of_localisation
from uadray.evaluation.report import evaluate
from uadray.evaluation.tile_detections import DetectionConfig
from uadray.schemas import SLIDE_DECISIONS
from uadray.slides.manifest import SlideRow

SCORES = {
    "n1": [[1.0, 2.0, 3.0, 1.0, 1.0, 1.0]],
    "t1": [[1.0, 9.0, 8.0, 1.0, 1.0, 4.0]],
    "t2": [[1.0, 1.0, 1.0, 1.0, 5.0, 1.0]],
}
LESIONS = {"t1": shapely.box(STEP, 0, 3 * STEP, STEP), "t2": shapely.box(0, 0, 3 * STEP, STEP)}


def _decisions(**others: Any) -> dict[str, dict[str, Any]]:
    common = dict.fromkeys(SLIDE_DECISIONS.names) | {
        "state": "scored", "alpha": 0.1, "fingerprint": "f", "mpp_level0": 0.972, "width_level0_px": 6 * STEP,
        "height_level0_px": STEP, "decision": "normal",
    }  # fmt: skip
    scores = {"n1": 1.0, "t1": 3.0, "t2": 2.0}
    return {name: common | {"slide_id": name, "uri": f"{name}.tif", "score": scores[name]} | others for name in SCORES}


def _slides() -> Iterator[tuple[SlideRow, pa.Table, Any]]:
    for name, scores in SCORES.items():
        yield SlideRow(name, f"{name}.tif"), grid_tiles(scores), LESIONS.get(name)


def test_by_hand() -> None:
    """t1's lesion is found with 9; t2's with 1, by the tile that its 5 leaves, after false alarms of 5, 4, 3 and 1."""
    figures = figures_of_localisation(_slides(), _decisions())
    froc, aupro = figures["froc"], figures["aupro"]
    assert froc["sensitivities"] == {"0.25": 0.5, "0.5": 0.5, "1": 0.5, "2": 1.0, "4": 1.0, "8": 1.0}
    assert (froc["slides"], froc["lesions"], froc["isolated"]) == (3, 2, 0)
    assert froc["curve"][:2] == [[0.0, 0.0], [0.0, 0.5]]
    assert aupro["regions"] == 2
    assert aupro["score"] == pytest.approx((0.5 * 4 / 13 + (0.3 - 4 / 13) * 0.5) / 0.3, abs=0.01)
    assert "localisation_note" not in figures


def test_regions_are_detections_too() -> None:
    """Tiles of 4 and more: t1's lesion of two of them is one detection, and its 4 and t2's 5 are false alarms."""
    config = DetectionConfig(by="region", threshold=4)
    froc = figures_of_localisation(_slides(), _decisions(), config)["froc"]
    assert froc["curve"] == [[0, 0], [0, 0.5], [pytest.approx(2 / 3), 0.5]]
    assert froc["detections"] == config.model_dump()


@pytest.mark.parametrize("values", [{"by": "region"}, {"threshold": 1}, {"radius_um": 0}])
def test_detections_that_do_not_fit_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"threshold goes with by: region|radius_um"):
        parse_config(DetectionConfig, values, source="protocol")


def test_slides_without_a_resolution_are_told() -> None:
    figures = figures_of_localisation(_slides(), _decisions(mpp_level0=None))
    assert figures["froc"] is None
    assert figures["aupro"] is not None
    assert "3 slides without mpp_level0" in figures["localisation_note"]


def test_nothing_to_find() -> None:
    slides = [(row, tiles, None) for row, tiles, _ in _slides()]
    figures = figures_of_localisation(slides, _decisions())
    assert figures["froc"] is figures["aupro"] is None
    assert "no lesion" in figures["localisation_note"]


def test_evaluate_says_them(tmp_path: Path) -> None:
    out, beside = tmp_path / "out", tmp_path / "outlines"
    (out / "tiles").mkdir(parents=True)
    beside.mkdir()
    pq.write_table(pa.Table.from_pylist(list(_decisions().values()), schema=SLIDE_DECISIONS), out / "decisions.parquet")
    for row, tiles, outline in _slides():
        pq.write_table(tiles, out / "tiles" / f"{row.slide_id}.parquet")
        if outline is not None:
            (beside / f"{row.slide_id}.geojson").write_text(shapely.to_geojson(outline))
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,uri,label\nn1,n1.tif,normal\nt1,t1.tif,tumor\nt2,t2.tif,tumor\n")
    figures = evaluate(str(out), labels=str(manifest), outlines=str(beside))
    assert figures["froc"] == figures_of_localisation(_slides(), _decisions())["froc"]
    written = json.loads((out / "evaluation.json").read_text())
    assert written["aupro"]["score"] == figures["aupro"]["score"]
    assert "froc: score" in (out / "evaluation.html").read_text()


def test_mosaics(data_dir: Path) -> None:
    """The lesions of the development mosaics, as their outlines have them: none is of isolated cells."""
    from uadray.evaluation.lesions import lesion_mask
    from uadray.evaluation.outlines import read_outlines

    counts = {}
    for name in ("test", "small"):
        masks = [
            lesion_mask(read_outlines(str(path)), mpp_level0=0.972)
            for path in sorted((data_dir / "mosaics" / name).glob("*.geojson"))
        ]
        counts[name] = (len(masks), sum(mask.n_lesions for mask in masks), sum(mask.n_isolated for mask in masks))
    assert counts == {"test": (16, 9, 0), "small": (40, 25, 0)}
