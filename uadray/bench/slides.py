"""Slides, bundles and manifests for the benchmarks: made here, so that a benchmark needs no data but its own.

A bench slide is a phantom (see `uadray.phantoms.slides`) laid out several times side by side: tissue and glass in the
size of a scanner's file, in seconds. Slides of one archive are copies of one file under different names: nothing in
uadray can tell, for objects are known by their URI and etag.
"""

from pathlib import Path

import numpy as np

from uadray.config import parse_config
from uadray.decisions.aggregation import AggregationConfig, Calibration
from uadray.detectors.bundle import CALIBRATION, Bundle, write_bundle
from uadray.detectors.catalog import build_networks
from uadray.phantoms.slides import PhantomSpec, paint, write_pyramid
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig, detector_of

MPP = 0.486
"""Of level 0: half of what `DPA` reads, so that level 1 has its tiles without resampling."""

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


def write_slide(path: Path, *, repeats: int, phantom_px: int = PHANTOM_PX, seed: int = 0) -> Path:
    """One slide of `repeats` x `repeats` phantoms; a phantom of 2048 px takes 1.5 s, a slide of 6 x 6 another 2 s."""
    image, _ = paint(PhantomSpec(phantom_px, phantom_px, MPP, lesion=False, stain=0, seed=seed))
    return write_pyramid(path, np.tile(image, (repeats, repeats, 1)), mpp=MPP, downsamples=DOWNSAMPLES)


def upload_copies(path: Path, folder_uri: str, n: int) -> list[SlideRow]:
    """Put `n` copies of a slide into a folder or bucket; their lines of a manifest."""
    data = path.read_bytes()
    rows = [SlideRow(slide_id=f"s{i:04d}", uri=objects.join(folder_uri, f"s{i:04d}.tif")) for i in range(n)]
    for row in rows:
        objects.write_bytes(row.uri, data)
    return rows


def write_dpa_bundle(uri: str) -> Bundle:
    """A bundle as large and slow as one of `configs/train/dpa.yaml`: VGG16's published weights, the rest untrained."""
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
"""A real detector that costs next to nothing, on every tile of a slide."""


def write_tiny_bundle(uri: str) -> Bundle:
    """A bundle of `TINY`, untrained: where the detector is not what is looked at."""
    config = parse_config(TrainConfig, {"name": "tiny", **TINY}, source="uadray.bench.slides")
    detector = detector_of(config)
    networks = build_networks(detector)
    bundle = write_bundle(uri, networks, name="tiny", detector=detector, tiles=config.tiles)
    write_calibration(uri, bundle)
    return bundle


def write_calibration(uri: str, bundle: Bundle, *, scores: tuple[float, ...] | None = None) -> Calibration:
    """A calibration that lets the bundle decide; its scores mean nothing unless given."""
    scores = scores or tuple(i / 19 for i in range(19))
    calibration = Calibration(
        id="bench", bundle_id=bundle.id, aggregation=AggregationConfig(), alpha=0.1, scores=tuple(sorted(scores)),
        tile_median=scores[0], tile_p99=scores[-1], tile_high=scores[-1] + 1.0,
    )  # fmt: skip
    objects.write_bytes(objects.join(uri, CALIBRATION), calibration.model_dump_json().encode())
    return calibration


def gpu_tiles() -> TileSpec:
    """What a GPU's model reads: 256 px tiles of level 0, each one JPEG tile of the bench slides."""
    return TileSpec(mpp=MPP, tile_px=256, min_tissue=0.5)
