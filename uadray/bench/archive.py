"""`bench archive`: what a screening takes a slide beside reading and scoring, with 100,000 slides on a real S3 server.

The slides are made up: each object holds a few bytes, the reader makes one tiny tile without opening it, and the
detector answers at once. Everything else is what `uadray screen` does: leases, streams, tile scores, evidence, masks,
decisions, segments, worklist. All but the last 100 slides are screened by one process; then another process is given
all of them, and has to find out which are left. Server, readers, scorers and driver share the machine.
"""

import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.bench.processes import CpuMeter, cpu_seconds, peak_rss
from uadray.bench.seaweed import SeaweedServer, served
from uadray.bench.slides import write_calibration, write_tiny_bundle
from uadray.decisions.aggregation import AggregationConfig
from uadray.detectors.bundle import Bundle
from uadray.detectors.detector import Scored
from uadray.detectors.pixels import Pixels
from uadray.errors import WorkError
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES, TILES
from uadray.screening.bundles import calibrated_bundle
from uadray.screening.job import screen
from uadray.screening.parts import part_row, to_ipc
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

GOALS = {
    "first_decision_s": 30.0,
    "decisions_per_s": 100.0,
    "driver_peak_gb": 2.0,
    "requests_per_slide": 6.0,
    "resume_s": 60.0,
}
"""Decisions a second at least; of all others at most."""

LEFT = 100
"""Slides that the second process finds undecided."""

_SIDE_PX = 16
_CONTENT = b"a slide that is never opened"
_PREVIEW = encode_jpeg(np.full((48, 64, 3), 200, np.uint8))
_MASKS = json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]}).encode()


def run(*, slides: int = 100_000) -> dict[str, Any]:
    """Measure; prints nothing. Takes about twenty minutes with 100,000 slides on two cores.

    Args:
        slides: of the archive.
    """
    left = min(LEFT, slides // 2)
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name, served(Path(name)) as server:
        root, archive = f"s3://{server.bucket}", f"s3://{server.public_bucket}/archive"
        write_bundle_of_one_tile(f"{root}/bundle")
        rows = made_up(archive, slides)
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda row: objects.write_bytes(row.uri, _CONTENT), rows))
        del rows
        first, requests = _counted(server, partial(_screened, root, archive, slides - left))
        second, _ = _counted(server, partial(_screened, root, archive, slides))
    if second["slides_now"] != left:
        raise WorkError(f"the bench's own slides: {second['slides_now']} were screened again, expected {left}")
    n = slides - left
    figures = {
        "first_decision_s": round(first["first_s"], 2),
        "decisions_per_s": round(n / first["seconds"], 2),
        "driver_peak_gb": round(max(first["peak"], second["peak"]) / 1e9, 3),
        "requests_per_slide": round(sum(requests.values()) / n, 3),
        "resume_s": round(second["seconds"], 2),
    }
    return {
        "slides": slides,
        "cores": os.cpu_count(),
        **figures,
        "requests": dict(requests),
        "cpu_ms_per_slide": first["cpu"],
        "screen_s": round(first["seconds"], 2),
        "steady_decisions_per_s": round((n - 1) / max(first["seconds"] - first["first_s"], 1e-9), 2),
        "goals": GOALS,
        "goals_met": all(_is_met(name, value) for name, value in figures.items()),
    }


def _is_met(name: str, value: float) -> bool:
    return value >= GOALS[name] if name == "decisions_per_s" else value <= GOALS[name]


def _counted(server: SeaweedServer, work: partial[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, int]]:
    """What `work` returns in a process of its own, and how many requests of each kind reached the user's bucket."""
    before, pid = server.requests(), server.process.pid if server.process else 0
    spent = cpu_seconds(pid)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        figures = pool.submit(work).result()
    server_s = cpu_seconds(pid)[pid] - spent[pid]
    figures["cpu"]["server"] = round(1000 * server_s / figures["slides"], 2)
    return figures, dict(server.requests() - before)


def _screened(root: str, archive: str, n: int) -> dict[str, Any]:
    """Screen the first `n` slides as a command would, with the start of Ray."""
    from uadray.cluster.connection import connect

    began, first_s = time.perf_counter(), 0.0

    def progress(done: int, total: int, tiles: int, note: str = "") -> None:
        nonlocal first_s
        if tiles and not first_s:
            first_s = time.perf_counter() - began

    connect()
    bundles = [calibrated_bundle(f"{root}/bundle")]
    with CpuMeter() as meter:
        summary = screen(
            made_up(archive, n), bundles=bundles, out=f"{root}/out", load=FreeDetector, read=read_made_up,
            progress=progress,
        )  # fmt: skip
        spent = meter.seconds()
    seconds = time.perf_counter() - began
    if summary["scored"] != n:
        raise WorkError(f"the bench's own slides: {summary}")
    return {
        "slides": n, "first_s": first_s, "seconds": seconds,
        "peak": peak_rss(os.getpid()), "slides_now": summary["slides_now"],
        "cpu": {role: round(1000 * cpu_s / n, 2) for role, cpu_s in spent.items()},
    }  # fmt: skip


def made_up(folder: str, n: int) -> list[SlideRow]:
    """The rows of `n` slides."""
    return [SlideRow(f"s{i:06d}", f"{folder}/s{i:06d}.tif") for i in range(n)]


def write_bundle_of_one_tile(uri: str) -> None:
    """Write a bundle that decides about slides of a single tile."""
    bundle = write_tiny_bundle(uri)
    calibration = write_calibration(uri, bundle)
    calibration = calibration.model_copy(update={"aggregation": AggregationConfig(min_tiles=1)})
    objects.write_bytes(objects.join(uri, "calibration.json"), calibration.model_dump_json().encode())


def read_made_up(index: int, row: SlideRow, spec: TileSpec) -> Iterator[pa.Table]:
    """One part with one tile, in the place of `slide_reader.read_slide`."""
    tiles = pa.table(
        {
            "tile_id": [f"{row.slide_id}/0"],
            "slide_id": [row.slide_id],
            "x_level0_px": [0],
            "y_level0_px": [0],
            "width_level0_px": [_SIDE_PX],
            "height_level0_px": [_SIDE_PX],
            "tissue_fraction": [1.0],
            "band": ["tissue"],
        },
        schema=TILES,
    )
    pixels = np.full((1, _SIDE_PX, _SIDE_PX, 3), index % 251, np.uint8)
    header = {
        "n_parts": 1,
        "read_s": 0.0,
        "bytes": pixels.nbytes,
        "etag": hashlib.md5(_CONTENT, usedforsecurity=False).hexdigest(),
        "mpp_level0": spec.mpp,
        "size_level0_px": (4 * _SIDE_PX, 3 * _SIDE_PX),
        "n_tiles": 1,
        "n_grid": 12,
    }
    yield part_row(
        index, 0, header=header, preview=_PREVIEW, masks=_MASKS, flagged=to_ipc(TILE_SCORES.empty_table()),
        tiles=tiles, pixels=pixels, errors=json.dumps([None]), flags=json.dumps([None]),
    )  # fmt: skip


class FreeDetector:
    """A detector that answers at once, made as `load_detector` makes one."""

    def __init__(self, uri: str, bundle: Bundle, **_: Any) -> None:
        self._score = 0.5

    def __call__(self, pixels: Pixels) -> Scored:
        """The same score for every tile, and the tile itself as its reconstruction."""
        n = len(pixels)
        return Scored(
            np.full(n, self._score), lambda rows: (pixels[list(rows)], pixels[list(rows)]),
            lambda rows: np.zeros((len(rows), 2, 2), np.float32),
        )  # fmt: skip
