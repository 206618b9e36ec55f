"""Slides, bundles and manifests for the benchmarks, made here so that a benchmark needs no other data.

A bench slide is a phantom (see `uadray.phantoms.tissue`) laid out several times side by side, which gives tissue and
glass in the size of a scanner's file within seconds. The slides of an archive are copies of one file under different
names, which makes no difference to uadray: it knows objects by URI and etag.
"""

from pathlib import Path

import numpy as np

from uadray.config import parse_config
from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import CALIBRATION, Bundle, write_bundle
from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.pyramid import write_pyramid
from uadray.phantoms.tissue import paint
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig, detector_of

MPP = 0.486
"""Of level 0: half of what `DPA` reads, so that its tiles are cut from level 1 without resampling."""

MPP_CASES = {"exact": (0.5, 0.5), "0.4990": (0.499, 0.5), "0.2525": (0.2525, 0.5)}
"""The usual cases: um/px of level 0, and of the tiles asked for. Scanners rarely have a model's mpp: 0.4990 and
0.2525 are those of Aperio's scanners at 20x and 40x, and there every tile is resampled."""

PHANTOM_PX = 2048
DOWNSAMPLES = (2, 4, 8)

DPA = {
    "detector": {
        "kind": "dpa",
        "input_px": 64,
        "backbone": "vgg16",
        "layers": ["relu4_2"],
        "width": 16,
        "halvings": 3,
        "latent_channels": 1,
        "score": "relative_l2",
        "learning_rate": 1.0e-3,
    },
    "tiles": {"mpp": 0.972, "tile_px": 96, "min_tissue": 0.5},
}
"""Detector and tiles of `configs/train/dpa.yaml`, which an installed package does not have; a test holds them equal."""


def write_slide(path: Path, *, repeats: int, phantom_px: int = PHANTOM_PX, mpp: float = MPP, seed: int = 0) -> Path:
    """Write a slide of `repeats` x `repeats` phantoms: 1.5 s for a phantom of 2048 px, 2 s more for 6 x 6 of them."""
    image, _ = paint(PhantomSpec(phantom_px, phantom_px, mpp, lesion=False, stain=0, seed=seed))
    return write_pyramid(path, np.tile(image, (repeats, repeats, 1)), mpp=mpp, downsamples=DOWNSAMPLES)


def upload_copies(path: Path, folder_uri: str, n: int) -> list[SlideRow]:
    """Put `n` copies of a slide into a folder or bucket; returns their rows of a manifest."""
    data = path.read_bytes()
    rows = [SlideRow(slide_id=f"s{i:04d}", uri=objects.join(folder_uri, f"s{i:04d}.tif")) for i in range(n)]
    for row in rows:
        objects.write_bytes(row.uri, data)
    return rows


def write_dpa_bundle(uri: str) -> Bundle:
    """Write a bundle as large and slow as one of `configs/train/dpa.yaml`, untrained but for the VGG16 weights."""
    config = parse_config(TrainConfig, {"name": "bench", **DPA}, source="uadray.bench.slides")
    detector = detector_of(config)
    networks = build_networks(detector)
    bundle = write_bundle(uri, networks, name="bench-dpa", detector=detector, tiles=config.tiles)
    write_calibration(uri, bundle)
    return bundle


TINY = {
    "detector": {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8},
    "tiles": {"mpp": MPP, "tile_px": 128, "min_tissue": 0.0, "quality": None},
}
"""A real detector that costs next to nothing, and tiles that cover the whole slide."""


def write_tiny_bundle(uri: str) -> Bundle:
    """Write an untrained bundle of `TINY`, for benchmarks in which the detector does not matter."""
    config = parse_config(TrainConfig, {"name": "tiny", **TINY}, source="uadray.bench.slides")
    detector = detector_of(config)
    networks = build_networks(detector)
    bundle = write_bundle(uri, networks, name="tiny", detector=detector, tiles=config.tiles)
    write_calibration(uri, bundle)
    return bundle


def write_calibration(uri: str, bundle: Bundle, *, scores: tuple[float, ...] | None = None) -> Calibration:
    """Write a calibration that lets the bundle decide; unless scores are given, its scores mean nothing."""
    scores = scores or tuple(i / 19 for i in range(19))
    calibration = Calibration(
        id="bench", bundle_id=bundle.id, aggregation=AggregationConfig(), alpha=0.1, scores=tuple(sorted(scores)),
        tile_median=scores[0], tile_p99=scores[-1], tile_high=scores[-1] + 1.0,
    )  # fmt: skip
    objects.write_bytes(objects.join(uri, CALIBRATION), calibration.model_dump_json().encode())
    return calibration


def gpu_tiles(mpp: float = MPP) -> TileSpec:
    """The tiles of a model on a GPU: 256 px, where `mpp` is the slide's each exactly one JPEG tile of it."""
    return TileSpec(mpp=mpp, tile_px=256, min_tissue=0.5)
