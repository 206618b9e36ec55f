"""Tiles of two classes that are easy to tell, and look alike from all sides: stripes, and chessboards."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from uadray.reports.pictures import encode_png
from uadray.tiles.images import Pixels

SIDE = 20
CLASSES = ("normal", "tumor")


def tiles_of(label: str, n: int, *, seed: int) -> Pixels:
    """[n, SIDE, SIDE, 3] Of any colour, contrast and place, under noise. Normal: stripes one way; tumor: both ways."""
    rng = np.random.default_rng(seed)
    across, upright = _stripes(n, rng), _stripes(n, rng).transpose(0, 2, 1)
    one_way = np.where(rng.random((n, 1, 1)) < 0.5, across, upright)
    pattern = one_way if label == "normal" else across * np.sign(upright)
    noisy = rng.uniform(100, 150, (n, 1, 1, 3)) + pattern[..., None] + rng.normal(0, 4, (n, SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def write_labelled(folder: Path, n: dict[str, int], *, seed: int) -> str:
    """A folder of tiles, `n` of each label."""
    for number, (label, count) in enumerate(n.items()):
        (folder / label).mkdir(parents=True)
        for i, tile in enumerate(tiles_of(label, count, seed=seed + 10 * number)):
            (folder / label / f"{seed}_{i:03d}.png").write_bytes(encode_png(tile))
    return str(folder)


def _stripes(n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """[n, SIDE, SIDE] Four pixels wide, upright."""
    phase = rng.integers(0, 8, (n, 1)) + np.arange(SIDE)
    stripes = np.where(phase // 4 % 2, 1.0, -1.0) * rng.uniform(40, 60, (n, 1))
    return np.broadcast_to(stripes[:, None, :], (n, SIDE, SIDE))
