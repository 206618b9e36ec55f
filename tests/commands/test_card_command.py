"""The card of a bundle: what its owner says, the figures of its own screenings, and the rate that it promises."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uadray.bench.slides import write_tiny_bundle
from uadray.commands import card
from uadray.detectors.bundle import read_bundle
from uadray.detectors.gallery import write_gallery
from uadray.errors import InputError
from uadray.reports.pictures import encode_jpeg

ABOUT = {
    "title": "Tiny", "intended_use": "Tests.", "not_for": ["Not for slides."], "training_data": "Noise.",
    "evaluation_data": "Other noise.", "factors": [], "limits": ["It sees <nothing>."], "advice": ["Leave it."],
    "licence": "CC0",
}  # fmt: skip

FIGURES = {
    "slide_auroc": 0.875, "auroc_ci95": [0.61, 0.99], "alpha": 0.1, "found": 3, "n_anomalous": 4, "false_alarms": 1,
    "n_normal": 9, "tiles": {"auroc": 0.7, "auroc_ci95": [0.6, 0.8]}, "trivial": {"mean_saturation": 0.55, "x": None},
    "sensitivity_at_95_specificity": "<script>",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    uri = str(tmp_path / "bundle")
    write_tiny_bundle(uri)
    return uri


def _screening(folder: Path, bundle_id: str, figures: Any) -> str:
    folder.mkdir()
    record = {
        "fingerprint": "f", "uadray_version": "0", "bundle": "b", "bundle_id": bundle_id, "detector": "dpa",
        "calibration_id": "c",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    if figures is not None:
        (folder / "evaluation.json").write_text(json.dumps(figures))
    return str(folder)


def test_it_has_the_figures_of_its_screenings_with_intervals(bundle: str, tmp_path: Path) -> None:
    out = _screening(tmp_path / "north", read_bundle(bundle).id, FIGURES)
    _, text = card.run(bundle, out=str(tmp_path / "card.html"), screenings=[out])
    assert "| AUROC of slides, north | 0.875 (0.610 to 0.990; 95 %) |" in text
    assert "| AUROC of tiles, north | 0.700 (0.600 to 0.800; 95 %) |" in text
    assert "| anomalous slides called at alpha 0.1, north | 3 of 4 |" in text
    assert "| normal slides called at alpha 0.1, north | 1 of 9 |" in text
    assert "mean saturation alone, for comparison, north | 0.550 |" in text
    assert "script" not in text
    assert "0.875 (0.610 to 0.990; 95 %)" in (tmp_path / "card.html").read_text()


def test_an_auroc_of_one_has_an_interval_with_a_width(bundle: str, tmp_path: Path) -> None:
    figures = FIGURES | {"slide_auroc": 1.0, "auroc_ci95": [1.0, 1.0], "auroc_delong": {"ci95": [0.756, 1.0]}}
    out = _screening(tmp_path / "north", read_bundle(bundle).id, figures)
    assert "1.00 (0.756 to 1.00; 95 %)" in card.run(bundle, out=None, screenings=[out])[1]


def test_what_its_owner_says_stands_in_it(bundle: str, tmp_path: Path) -> None:
    assert "Nothing is known." in card.run(bundle, out=None)[1]
    (Path(bundle) / "about.json").write_text(json.dumps(ABOUT))
    text = card.run(bundle, out=None)[1]
    for words in ("Tests.", "- Not for slides.", "Noise.", "It sees \\<nothing\\>.", "- Leave it.", "CC0"):
        assert words in text
    (Path(bundle) / "about.json").write_text(json.dumps(ABOUT | {"limits": 3}))
    with pytest.raises(InputError, match=r"about\.json"):
        card.run(bundle, out=None)


def test_a_gallery_is_told(bundle: str) -> None:
    jpeg = encode_jpeg(np.full((16, 16, 3), 200, np.uint8))
    write_gallery(bundle, read_bundle(bundle), [jpeg] * 3, [0.0] * 3, np.ones((3, 152), np.float32))
    assert "3 tiles, shown beside abnormal ones" in card.run(bundle, out=None)[1]


@pytest.mark.parametrize(("bundle_id", "figures", "said"), [("other", {}, "other; this is"), (None, None, "evaluated")])
def test_what_is_refused(bundle: str, tmp_path: Path, bundle_id: str | None, figures: Any, said: str) -> None:
    out = _screening(tmp_path / "out", bundle_id or read_bundle(bundle).id, figures)
    with pytest.raises(InputError, match=said):
        card.run(bundle, out=None, screenings=[out])
