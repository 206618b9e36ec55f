"""What the benchmarks of the endpoint serve: a real S3 server, the ready detector, slides, and the configuration.

Slides, bundle and the endpoint's folder are in SeaweedFS on this machine. The detector is `lymph-node-10x`, on its
tiles of 96 px, with a calibration that lets it decide; the slides are the mosaics of the development data, or where
those are not needed, painted ones.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from uadray.bench.detector_data import data_folder
from uadray.bench.endpoint import TOKEN
from uadray.bench.http_load import Request
from uadray.bench.seaweed import SeaweedServer, served
from uadray.bench.slides import upload_copies, write_calibration, write_slide
from uadray.detectors.bundle import Bundle, read_bundle
from uadray.errors import InputError
from uadray.ready.assembly import write_ready
from uadray.ready.entries import entry_named
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects
from uadray.tiles.images import Pixels

READY = "lymph-node-10x"

MOSAICS = ("test", "small", "normal_calib", "normal_train")
"""Folders of the mosaics, in the order in which slides are taken."""


@dataclass(frozen=True)
class Material:
    """What a benchmark of the endpoint runs on.

    Attributes:
        root: the URI of the bucket.
        bundle: the detector that scores.
        folder: for what lies on this machine.
        server: S3; None in a process that did not start it.
    """

    root: str
    bundle: Bundle
    folder: Path
    server: SeaweedServer | None = None

    def elsewhere(self) -> "Material":
        """The same, for another process."""
        return replace(self, server=None)

    @property
    def bundle_uri(self) -> str:
        """Where the detector lies."""
        return f"{self.root}/bundles/a"

    def arguments(self, out: str, **others: Any) -> dict[str, Any]:
        """Of an endpoint that works in the folder `out` of the bucket: one thread a stage, one replica of each."""
        return {
            "out": f"{self.root}/{out}", "bundles": {"a": self.bundle_uri}, "slides": [f"{self.root}/slides/"],
            "bundle_sources": [f"{self.root}/bundles/"], "view": {"replicas": 0, "max_replicas": 1, "cpus": 0},
        } | others  # fmt: skip


@contextmanager
def material(folder: Path, write: Callable[[str], Bundle] | None = None) -> Iterator[Material]:
    """A server with a bundle, for a `with` block; `write` writes another than the ready one."""
    with served(folder / "s3") as server:
        root = f"s3://{server.bucket}"
        yield Material(root, (write or write_ready_bundle)(f"{root}/bundles/a"), folder, server)


def write_ready_bundle(uri: str) -> Bundle:
    """Write the ready detector with a calibration that lets it decide, as 19 slides of its scores would."""
    write_ready(entry_named(READY), uri)
    bundle = read_bundle(uri)
    write_calibration(uri, bundle, scores=tuple(np.linspace(-1, 8, 19).tolist()))
    return bundle


def mosaics(place: Material, n: int) -> list[SlideRow]:
    """The first `n` mosaics, in the bucket.

    Raises:
        InputError: there is no development data.
    """
    folder = data_folder() / "mosaics"
    rows = [row for name in MOSAICS for row in read_manifest(str(folder / name / "manifest.csv"))][:n]
    sent = [replace(row, uri=f"{place.root}/slides/{row.slide_id}.tif") for row in rows]

    def put(pair: tuple[SlideRow, SlideRow]) -> None:
        objects.write_bytes(pair[1].uri, objects.read_bytes(pair[0].uri))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, zip(rows, sent, strict=True)))
    return sent


def painted(place: Material, n: int, *, repeats: int = 6, phantom_px: int = 512) -> list[SlideRow]:
    """As many copies of one painted slide, in the bucket, with the pixels that the detector reads."""
    mpp = place.bundle.tiles.mpp
    path = write_slide(place.folder / "slide.tif", repeats=repeats, phantom_px=phantom_px, mpp=mpp)
    return upload_copies(path, f"{place.root}/slides", n)


def asked(rows: Sequence[SlideRow]) -> list[dict[str, Any]]:
    """The requests for slides."""
    return [
        {name: value for name in ("slide_id", "uri", "mpp") if (value := getattr(row, name)) is not None}
        for row in rows
    ]


def tiles(n: int, side: int, *, seed: int = 0) -> Pixels:
    """Tiles of noise, RGB [n, side, side, 3]: nothing about them can be compressed away."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def npz_request(pixels: Pixels) -> Request:
    """A request for the scores of tiles, as an npz."""
    data = io.BytesIO()
    np.savez(data, tiles=pixels)
    headers = (("Authorization", f"Bearer {TOKEN}"), ("Content-Type", "application/x-npz"))
    return Request("/v1/tiles/score", data.getvalue(), headers)


def mosaics_or_painted(place: Material, n: int) -> list[SlideRow]:
    """Mosaics, or where there is no development data, painted slides."""
    try:
        return mosaics(place, n)
    except InputError:
        return painted(place, n)
