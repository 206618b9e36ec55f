"""What bounds a screening on this machine: decoding alone, and the detector alone, in tiles a second."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
import torch

from uadray.bench.stand_in import STAND_IN_S
from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import BATCH
from uadray.errors import WorkError
from uadray.slides.opening import open_slide
from uadray.slides.tiff.byte_source import open_source
from uadray.slides.tiff.index import read_index
from uadray.slides.tiff.read_ahead import touched_tiles
from uadray.slides.tile_reading import tile_places
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec


def bare_rates(case: str, bundle_uri: str, bundle: Bundle, path: Path, seconds: float) -> dict[str, float]:
    """Tiles a second of decoding alone (`decode`) and of the detector alone (`model`), each on all cores.

    There is no `model` where it takes no time. `decode_cpu_ms` are CPU milliseconds a tile, which other load on the
    machine hardly changes.
    """
    tiles = tissue_tiles(path, bundle.tiles)
    jpegs = encoded_tiles(path, tiles, bundle.tiles)
    cores = os.cpu_count() or 1
    decode = _rate(lambda: _decode_all(jpegs, cores), len(tiles), seconds)
    cpu_s = time.process_time()
    _decode_all(jpegs, cores)
    rates = {"decode": decode, "decode_cpu_ms": 1000 * (time.process_time() - cpu_s) / len(tiles)}
    if case != "real":
        return rates | ({} if case == "host" else {"model": 1 / STAND_IN_S})
    torch.set_num_threads(cores)
    one = _model_rate(bundle_uri, bundle, cores, seconds)
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_model_rate, bundle_uri, bundle, 1, seconds) for _ in range(cores)]
        apart = sum(job.result() for job in jobs)
    return rates | {"model": max(one, apart)}


def tissue_tiles(path: Path, spec: TileSpec) -> pa.Table:
    """The tiles that a screening would read of a slide."""
    with open_slide(path, slide_id="bench") as slide:
        return plan_slide(slide, etag="", spec=spec).tiles


def _model_rate(bundle_uri: str, bundle: Bundle, threads: int, seconds: float) -> float:
    """Tiles a second of the detector in this process."""
    torch.set_num_threads(threads)
    detector = load_detector(bundle_uri, bundle)
    side = bundle.tiles.tile_px
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    return _rate(lambda: detector(pixels), BATCH, seconds)


def _rate(work: Callable[[], Any], n: int, seconds: float) -> float:
    """N over the median seconds of a call. `work` is called once to warm up, and then again for so many seconds."""
    work()
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return n / statistics.median(times)


def encoded_tiles(path: Path, tiles: pa.Table, spec: TileSpec) -> list[bytes]:
    """The JPEG tiles of the file that these tiles lie in, each once, as streams that can be decoded by themselves."""
    with open_slide(path, slide_id="bench") as slide:
        corners = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
        places = tile_places(slide, *corners, mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser)
    source = open_source(str(path))
    index = read_index(source)
    if index is None:
        raise WorkError(f"{path}: the bench's own slide is not read by the fast path")
    level = index.levels[places.level]
    wanted = np.unique(touched_tiles(level, places.boxes)[1])
    starts = level.offsets[wanted]
    blobs = source.read(list(zip(starts.tolist(), (starts + level.lengths[wanted]).tolist(), strict=True)))
    source.close()
    return [level.tables[:-2] + blob[2:] for blob in blobs]


def _decode_all(jpegs: list[bytes], threads: int) -> None:
    """Decode on so many threads. simplejpeg works outside the interpreter's lock, so threads run side by side."""

    def decode(part: list[bytes]) -> None:
        for jpeg in part:
            simplejpeg.decode_jpeg(jpeg, colorspace="RGB")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [jpegs[i::threads] for i in range(threads)]))
