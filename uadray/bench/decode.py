"""`bench decode`: tiles from a local slide, against the decoder alone on the same tiles, and against OpenSlide.

All three read the same slide of 256 px JPEG tiles (4:2:0), one after the other in every round, with one thread and two:

- bare: simplejpeg over the tiles' JPEG streams, ready in memory, pixels thrown away: the machine's limit;
- fast: `read_chunks` on what `open_slide` gives, as a screening reads it;
- OpenSlide: the same `read_chunks` on OpenSlide.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg

from uadray.bench.slides import MPP, gpu_tiles, write_slide
from uadray.data.reading import read_chunks
from uadray.errors import WorkError
from uadray.slides.byte_source import open_source
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.reader import Slide, open_slide, reading_order
from uadray.slides.tiff_index import read_index
from uadray.tiling import grid

GOALS = {"over_bare": 0.7, "over_openslide": 5.0}
"""Least ratios of tiles per second, on one thread and on two."""

Job = Callable[[int], float]
"""Reads everything on so many threads; returns the seconds that took."""


def run(*, repeats: int = 4, rounds: int = 5) -> dict[str, Any]:
    """Measure; prints nothing.

    Args:
        repeats: phantoms of 2048 px a side of the slide: 4 is 1,024 file tiles.
        rounds: of measuring; ratios are medians over rounds.
    """
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        path = write_slide(Path(folder) / "slide.tif", repeats=repeats)
        jpegs = _jpegs(path)
        tiles = all_tiles(path)
        jobs: dict[str, Job] = {
            "bare": lambda threads: _timed(threads, jpegs, _decode_all),
            "fast": lambda threads: _timed(
                threads, tiles, lambda part: _read(open_slide(path, slide_id="bench"), part)
            ),
            "openslide": lambda threads: _timed(threads, tiles, lambda part: _read(_by_openslide(path), part)),
        }
        seconds = {f"{name}_{n}": [job(n)] for n in (1, 2) for name, job in jobs.items()}  # a first round, to warm up
        for _ in range(rounds):
            for n in (1, 2):
                for name, job in jobs.items():
                    seconds[f"{name}_{n}"].append(job(n))
        file_bytes = path.stat().st_size
    return _report({name: times[1:] for name, times in seconds.items()}, len(tiles), file_bytes)


def all_tiles(path: Path) -> pa.Table:
    """Every file tile of level 0 as a tile of the grid, glass too, in the order to read them."""
    spec = gpu_tiles()
    with open_slide(path, slide_id="bench") as slide:
        tiles = grid("bench", slide.level_sizes_px[0], slide.mpp, np.ones((8, 8), np.bool_), spec)
        x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
        return tiles.take(reading_order(slide, x, y, mpp=spec.mpp, tile_px=spec.tile_px))


def _report(seconds: dict[str, list[float]], n_tiles: int, file_bytes: int) -> dict[str, Any]:
    def ratio(of: str, to: str) -> float:
        return statistics.median(b / a for a, b in zip(seconds[of], seconds[to], strict=True))

    found = {
        f"fast_{name}_{n}_thread{'s' * (n > 1)}": round(ratio(f"fast_{n}", f"{name.removeprefix('over_')}_{n}"), 3)
        for name in GOALS
        for n in (1, 2)
    }
    rates = {f"{name}_tiles_per_s": round(n_tiles / statistics.median(times)) for name, times in seconds.items()}
    met = all(value >= GOALS["over_bare" if "bare" in name else "over_openslide"] for name, value in found.items())
    return {
        "n_tiles": n_tiles, "slide_bytes": file_bytes, "cores": os.cpu_count(), **rates, **found,
        "goals": GOALS, "goals_met": met,
    }  # fmt: skip


def _jpegs(path: Path) -> list[bytes]:
    """Level 0's tiles as JPEG streams that stand alone."""
    source = open_source(str(path))
    index = read_index(source)
    if index is None:
        raise WorkError(f"{path}: the benchmark's own slide is not one that the fast path reads")
    level = index.levels[0]
    starts, stops = level.offsets.tolist(), (level.offsets + level.lengths).tolist()
    blobs = source.read(list(zip(starts, stops, strict=True)))
    source.close()
    return [level.tables[:-2] + blob[2:] for blob in blobs]


def _decode_all(jpegs: Sequence[bytes]) -> None:
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg, colorspace="RGB")


def _by_openslide(path: Path) -> Slide:
    return OpenSlideSlide.open(str(path), slide_id="bench", mpp=MPP)


def _read(slide: Slide, tiles: pa.Table) -> None:
    with slide:
        for chunk in read_chunks(slide, tiles, spec=gpu_tiles()):
            if any(chunk.errors):
                raise WorkError(f"the benchmark's own slide has tiles that cannot be read: {chunk.errors}")


def _timed(threads: int, work: Any, read: Callable[[Any], None]) -> float:
    """Seconds to read `work`, cut into as many equal parts as there are threads."""
    each = -(-len(work) // threads)
    parts = [work[i * each : (i + 1) * each] for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(read, parts))
        return time.perf_counter() - start
