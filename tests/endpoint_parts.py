"""The parts of an endpoint in this process, without Ray: small calibrated bundles, and scores from their detectors."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.detector import Detector
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, TilePictures, Wanted
from uadray.tiles.images import Pixels
from uadray.tiles.spec import TileSpec

TILE_PX = 48


def write_calibrated(folder: Path, *, name: str = "tiny", seed: int = 0, tile_px: int = TILE_PX) -> str:
    """A bundle with random weights that decides; returns its URI."""
    torch.manual_seed(seed)
    config = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8)
    uri = str(folder / name)
    write_bundle(uri, build_networks(config), name=name, detector=config, tiles=TileSpec(mpp=1, tile_px=tile_px))
    calibration = Calibration(
        id=f"cal{seed}", bundle_id=read_bundle(uri).id, aggregation=AggregationConfig(), alpha=0.25,
        scores=(0.1, 0.2, 0.3), tile_median=0.1, tile_p99=0.5, tile_high=1.0,
    )  # fmt: skip
    (folder / name / "calibration.json").write_text(json.dumps(calibration.model_dump(mode="json")))
    return uri


@lru_cache(maxsize=8)
def detector_of(model_id: str, uri: str) -> Detector:
    """The detector of a bundle, loaded once."""
    return load_detector(uri, read_bundle(uri))


def score_here(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
    """What the stages say of tiles, from the whole detector."""
    scored = detector_of(bundle.model_id, bundle.uri)(pixels)
    rows = np.arange(len(pixels))
    if not wanted.pictures:
        best = np.argsort(-scored.score)[: wanted.evidence]
        rows = best[np.isfinite(scored.score[best]) & (scored.score[best] > wanted.floor)]
    seen, reconstruction = scored.pictures(rows.tolist())
    return Scores(
        scored.score, scored.cells, scored.maps(range(len(pixels))) if wanted.maps else None,
        TilePictures(rows, seen, reconstruction),
    )  # fmt: skip
