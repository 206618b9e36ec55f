"""`bench bundles`: what a second bundle costs where reading and decoding bound a screening, and whether scores stay.

Slides of tiles of 256 px are screened with one small detector and with two, in turn, on the same warm Ray: `over_one`
is the median over the pairs of the seconds with two over those with one. The two detectors have their own scores in the
screening of both, tile by tile (`largest_difference`).
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from uadray.bench.slides import MPP, gpu_tiles, upload_copies, write_calibration, write_slide
from uadray.cluster.connection import connect
from uadray.config import parse_config
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import write_bundle
from uadray.errors import WorkError
from uadray.screening.bundles import ScreeningBundle, arranged
from uadray.screening.job import screen
from uadray.slides.manifest import SlideRow
from uadray.training.config import TrainConfig, detector_of

GOALS = {"over_one": 1.4, "largest_difference": 1e-6}
"""The most that two bundles may take of the time of one; the most that a tile's score may differ."""

SMALL = {
    "detector": {"kind": "fanogan", "input_px": 32, "width": 4, "latent_dim": 8},
    "tiles": {"mpp": MPP, "tile_px": 256, "min_tissue": 0.5},
}
"""A detector that scores tiles faster than they are decoded."""


def run(*, slides: int = 12, pairs: int = 3, repeats: int = 3) -> dict[str, Any]:
    """Measure; prints nothing. Some minutes.

    Args:
        slides: to screen.
        pairs: of a screening with one bundle and one with both.
        repeats: phantoms along a slide's side.
    """
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        folder = Path(name)
        rows = upload_copies(write_slide(folder / "slide.tif", repeats=repeats), str(folder / "slides"), slides)
        both = arranged([_bundle(folder / f"bundle{seed}", seed) for seed in range(2)])
        connect()
        _seconds(rows[:2], both, folder / "warm")
        times = [
            (_seconds(rows, both[:1], folder / f"one{i}"), _seconds(rows, both, folder / f"two{i}"))
            for i in range(pairs)
        ]
        _seconds(rows, both[1:], folder / "other")
        own_folders = (folder / "one0", folder / "other")
        differences = [
            _difference(folder / "two0" / each.folder, own) for each, own in zip(both, own_folders, strict=True)
        ]
        n_tiles = sum(pq.read_metadata(path).num_rows for path in (folder / "one0" / "tiles").glob("*.parquet"))
    over_one = statistics.median(two / one for one, two in times)
    largest = max(differences)
    return {
        "over_one": round(over_one, 3),
        "pairs_s": [(round(one, 2), round(two, 2)) for one, two in times],
        "tiles": n_tiles,
        "largest_difference": largest,
        "goals": GOALS,
        "goals_met": over_one <= GOALS["over_one"] and largest <= GOALS["largest_difference"],
    }


def _bundle(folder: Path, seed: int) -> ScreeningBundle:
    torch.manual_seed(seed)
    config = parse_config(TrainConfig, {"name": f"small{seed}", **SMALL}, source="uadray.bench.bundles")
    detector = detector_of(config)
    networks = build_networks(detector)
    bundle = write_bundle(str(folder), networks, name=config.name, detector=detector, tiles=gpu_tiles())
    return ScreeningBundle(str(folder), bundle, write_calibration(str(folder), bundle))


def _seconds(rows: list[SlideRow], bundles: tuple[ScreeningBundle, ...], out: Path) -> float:
    began = time.perf_counter()
    summary = screen(rows, bundles=bundles, out=str(out))
    if summary["scored"] != len(rows):
        raise WorkError(f"the bench's own slides: {summary}")
    return time.perf_counter() - began


def _difference(together: Path, apart: Path) -> float:
    """The largest difference of a tile's score between two screenings."""
    largest = 0.0
    for path in sorted((apart / "tiles").glob("*.parquet")):
        here, there = (pq.read_table(folder / "tiles" / path.name) for folder in (together, apart))
        if not here["tile_id"].equals(there["tile_id"]):
            raise WorkError(f"{path.name}: not the same tiles")
        difference = here["score"].to_numpy(zero_copy_only=False) - there["score"].to_numpy(zero_copy_only=False)
        largest = max(largest, float(np.nanmax(np.abs(difference), initial=0.0)))
    return largest
