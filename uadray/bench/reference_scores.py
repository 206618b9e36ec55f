"""What detectors stand between: scores that need no model, and a logistic regression that was shown tumour."""

import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from uadray.detectors.detector import BATCH
from uadray.detectors.pixels import to_float
from uadray.networks.backbones import build_backbone
from uadray.tiles.images import Pixels
from uadray.tiles.trivial_scores import trivial_scores

Floats = npt.NDArray[np.float64]

Score = Callable[[Pixels], Floats]
"""RGB tiles [n, 96, 96, 3] at 0.972 um a pixel -> [n], higher = more abnormal."""

LAYERS = ("block5", "block10", "block15")
"""Of EfficientNet-Lite0: nuclei, their neighbourhood, and the whole tile."""

INPUT_PX = 192
"""Tiles are enlarged to this: at 96 px the last layer has 3 x 3 cells."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the L2 term (`C`), of which cross-validation takes one."""


def mean_saturation(tiles: Pixels) -> Floats:
    """Mean saturation of HSV."""
    return trivial_scores(tiles)[0].astype(np.float64)


def minus_mean_green(tiles: Pixels) -> Floats:
    """Minus the mean of green."""
    return -trivial_scores(tiles)[1].astype(np.float64)


TRIVIAL: dict[str, Score] = {"mean_saturation": mean_saturation, "minus_mean_green": minus_mean_green}
"""By the names of their rows."""


def supervised(normals: Pixels, tumours: Pixels, *, seed: int) -> tuple[Score, dict[str, Any]]:
    """A logistic regression on mean features of a frozen EfficientNet-Lite0, and what fitting it took.

    An upper reference, no detector: it is shown tumour. Its strength is chosen by five-fold cross-validation on the
    very tiles that it is fitted to, which come from the slides of the training.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    features = _pooled()
    x = np.concatenate([features(normals), features(tumours)])
    y = np.repeat([0, 1], [len(normals), len(tumours)])
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    strength = max(STRENGTHS, key=lambda c: cross_val_score(_model(c), x, y, cv=folds, scoring="roc_auc").mean())
    model = _model(strength).fit(x, y)
    cpu_s = time.process_time() - cpu_began
    figures = {
        "minutes": cpu_s / torch.get_num_threads() / 60,
        "wall_minutes": (time.perf_counter() - began) / 60,
        "cpu_s": cpu_s,
        "tiles_of_train": len(y),
        "tumour_tiles": len(tumours),
        "strength": strength,
    }
    return _decision(features, model), figures


def _model(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def _decision(features: Callable[[Pixels], Floats], model: Pipeline) -> Score:
    def score(tiles: Pixels) -> Floats:
        return np.asarray(model.decision_function(features(tiles)), np.float64)

    return score


def _pooled() -> Callable[[Pixels], Floats]:
    """RGB tiles [n, h, w, 3] -> means [n, channels] of the feature maps of `LAYERS`."""
    backbone = build_backbone("efficientnet_lite0", LAYERS).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(tiles: Pixels) -> Floats:
        means = [
            torch.cat([layer.mean((2, 3)) for layer in backbone(to_float(torch.from_numpy(_enlarged(part))))], 1)
            for part in np.array_split(tiles, -(-len(tiles) // BATCH))
        ]
        return torch.cat(means).double().numpy()

    return features


def _enlarged(tiles: Pixels) -> Pixels:
    size = (INPUT_PX, INPUT_PX)
    return np.stack([np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_CUBIC), np.uint8) for tile in tiles])
