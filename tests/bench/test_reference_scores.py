"""Trivial scores of painted tiles, and the supervised reference on a few real ones."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from uadray.bench.detector_data import read_label
from uadray.bench.reference_scores import STRENGTHS, mean_saturation, minus_mean_green, supervised


def test_trivial_scores() -> None:
    painted = np.stack([np.full((96, 96, 3), colour, np.uint8) for colour in ((200, 200, 200), (200, 100, 150))])
    assert mean_saturation(painted) == pytest.approx([0.0, 0.5], abs=0.01)
    assert minus_mean_green(painted) == pytest.approx([-200 / 255, -100 / 255])


@pytest.mark.usefixtures("torch_alone")
def test_shown_tumour_it_tells_it(data_dir: Path) -> None:
    train, valid = (str(data_dir / "pcam" / name) for name in ("train.zip", "valid.zip"))
    normals, tumours = read_label(train, "normal")[::300], read_label(train, "tumor")[::84]
    score, figures = supervised(normals, tumours, seed=0)
    assert (figures["tiles_of_train"], figures["tumour_tiles"]) == (64, 30)
    assert figures["strength"] in STRENGTHS
    tiles = np.concatenate([read_label(valid, label)[::50] for label in ("normal", "tumor")])
    scores = score(tiles)
    assert roc_auc_score(np.arange(len(tiles)) >= 30, scores) > 0.65
    assert score(tiles[3:7]) == pytest.approx(scores[3:7], abs=1e-4)
