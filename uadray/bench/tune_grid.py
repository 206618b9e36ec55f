"""What `bench tune` needs: tumour tiles in kinds, the scores of every point of the grid, and its truth on valid.

PatchCamelyon has one kind of anomaly, tumour: the last `KNOWN` tumour tiles of train, by name. Narrow kinds are made:
k-means with `KINDS` centres on means of frozen features (EfficientNet-Lite0, block 10, each channel by its deviation)
of all tumour tiles of train, and of each the `OF_KIND` tiles nearest to its centre. They are groups of tiles that look
alike, not diagnoses.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans

from uadray.bench.detector_data import read_label
from uadray.detectors.pixels import to_float
from uadray.networks import weights
from uadray.networks.backbones import build_backbone
from uadray.reports.pictures import encode_png
from uadray.tiles.images import Pixels
from uadray.training.tune_config import TuneConfig, configured
from uadray.training.tune_journal import Journal, trial_key
from uadray.training.tune_trial import auroc, train_and_score

KNOWN, KINDS, OF_KIND = 200, 5, 100
TUMOUR = "tumor"
"""The folder of the tumour tiles as they come; the other folders are narrow kinds."""

VALID = 600
"""Tiles of each class of valid that the truth is told from, evenly through the set."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A configuration of the grid.

    Attributes:
        params: by the names of the space.
        above: [n anomalies], the share of held-out normal tiles that score lower than each; mean over the folds.
        criterion: mean score of held-out normal tiles.
        valid_auroc: trained on all normal tiles, on valid.
    """

    params: dict[str, Any]
    above: Floats
    criterion: float
    valid_auroc: float


def write_kinds(folder: Path, train_zip: str) -> None:
    """Write a tile set of tumour tiles, `tumor/` and `kind_<number>/`; what is there is kept."""
    if (folder / "done").exists():
        return
    tiles = read_label(train_zip, "tumor")
    _write(folder / TUMOUR, tiles, np.arange(len(tiles))[-KNOWN:])
    features = _features(tiles)
    clusters = KMeans(KINDS, n_init=4, random_state=0).fit(features)
    for kind in range(KINDS):
        distances = np.linalg.norm(features - clusters.cluster_centers_[kind], axis=1)
        distances[clusters.labels_ != kind] = np.inf
        nearest = distances.argsort(kind="stable")[:OF_KIND]
        _write(folder / f"kind_{kind}", tiles, nearest[np.isfinite(distances[nearest])])
    (folder / "done").touch()


def _write(folder: Path, tiles: Pixels, numbers: npt.NDArray[np.int64]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:05d}.png").write_bytes(encode_png(tiles[number]))


@torch.inference_mode()
def _features(tiles: Pixels) -> Floats:
    """[n, 112], means of each channel in units of its deviation."""
    weights.ensure("efficientnet_lite0")
    backbone = build_backbone("efficientnet_lite0", ("block10",), pretrained=True).eval()
    parts = [backbone(to_float(torch.from_numpy(part)))[0].mean((2, 3)) for part in _parts(tiles)]
    features = np.asarray(torch.cat(parts).double())
    return np.asarray(features / features.std(0), np.float64)


def _parts(tiles: Pixels) -> Sequence[Pixels]:
    return [np.ascontiguousarray(tiles[start : start + 64]) for start in range(0, len(tiles), 64)]


def valid_tiles(valid_zip: str) -> tuple[Pixels, Pixels]:
    """Normal and tumour tiles of valid, `VALID` of each."""
    normals, tumours = (read_label(valid_zip, label) for label in ("normal", "tumor"))
    return _evenly(normals), _evenly(tumours)


def _evenly(tiles: Pixels) -> Pixels:
    return np.asarray(tiles[np.linspace(0, len(tiles) - 1, min(VALID, len(tiles))).round().astype(int)])


def truth(
    config: TuneConfig, params: dict[str, Any], normals: Pixels, valid: tuple[Pixels, Pixels], folder: Path
) -> float:
    """The AUROC on valid of a configuration that was trained on all normal tiles; kept in the folder."""
    train = configured(config, params)
    path = folder / f"{trial_key(train)}.json"
    if not path.exists():
        found: list[float] = []
        train_and_score(config, train, normals, *valid, lambda epoch, step, low, high: found.append(auroc(low, high)))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"params": params, "valid_auroc": found[-1]}), encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8"))["valid_auroc"])


def point_of(config: TuneConfig, params: dict[str, Any], journal: Journal, valid_auroc: float) -> Point:
    """A point, of the scores that the search of the grid has kept."""
    key = trial_key(configured(config, params))
    folds = [fold for number in range(config.folds) if (fold := journal.fold(key, number)) is not None]
    above = [_above(np.array(fold.normals), np.array(fold.anomalies)) for fold in folds]
    return Point(params, np.mean(above, axis=0), float(np.mean([np.mean(f.normals) for f in folds])), valid_auroc)


def _above(normals: Floats, anomalies: Floats) -> Floats:
    """[n anomalies], the share of normal tiles below each, ties counted half: its mean over any of them is their AUROC.

    >>> _above(np.array([1.0, 2.0, 2.0, 4.0]), np.array([2.0, 5.0])).tolist()
    [0.5, 1.0]
    """
    ordered = np.sort(normals)
    below = np.searchsorted(ordered, anomalies, "left") + np.searchsorted(ordered, anomalies, "right")
    return np.asarray(below / (2 * len(normals)), np.float64)
