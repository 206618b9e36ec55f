"""A search that takes a second a trial: a tiny autoencoder on 32 px tiles, of which anomalies are dotted."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from uadray.config import parse_config
from uadray.training.tune_config import TuneConfig

TILE_PX = 32

SEARCH: dict[str, Any] = {
    "train": {
        "name": "tiny", "epochs": 3, "steps_per_epoch": 2, "batch_size": 4, "shuffle_tiles": 16, "threads": 1,
        "tiles": {"mpp": 1.0, "tile_px": TILE_PX, "min_tissue": 0.0},
        "detector": {
            "kind": "dpa", "input_px": 16, "backbone": "efficientnet_lite0", "layers": ["block1"], "width": 4,
            "halvings": 2, "latent_channels": 1,
        },
    },
    "space": {
        "detector.latent_channels": [1, 4], "detector.width": {"low": 4, "high": 16},
        "layer": [{"detector.layers": ["block1"]}, {"detector.layers": ["block2"]}],
    },
    "normals": 60, "judged_normals": 12, "start_trials": 2,
}  # fmt: skip


def search_of(space: dict[str, Any], **changed: Any) -> TuneConfig:
    """The search of `SEARCH` over another space."""
    return parse_config(TuneConfig, SEARCH | {"space": space} | changed, source="search")


def tiny_search() -> TuneConfig:
    """`SEARCH` itself."""
    return parse_config(TuneConfig, SEARCH, source="search")


def tile(seed: int, *, is_dotted: bool = False, side_px: int = TILE_PX) -> np.ndarray:
    """Smooth noise in pink with weak dots, or with strong ones: some are alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 80, (4, 4, 3), dtype=np.uint8)
    image = np.array([210, 120, 180], np.uint8) - cv2.resize(small, (side_px, side_px))
    darker = rng.integers(20, 70) if is_dotted else rng.integers(0, 50)
    image[::3, ::3] -= np.minimum(image[::3, ::3], np.uint8(darker))
    return image


def write_tiles(folder: Path, *, normals: int = 45, kinds: dict[str, int] | None = None) -> Path:
    """Tiles as image files: `normal/`, and a folder for each kind of anomaly."""
    kinds = kinds if kinds is not None else {"dots": 6, "lines & <b>": 3}
    for label, n in {"normal": normals, **kinds}.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            image = tile(1000 * len(label) + i, is_dotted=label != "normal")
            cv2.imwrite(str(folder / label / f"{i:03d}.png"), image[..., ::-1])
    return folder
