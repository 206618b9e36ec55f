"""`bench decode`: tiles from a local slide, against the decoder alone on the same tiles, and against OpenSlide.

All three read the same slide of 256 px JPEG tiles (4:2:0), in turn and part by part, with one thread and with two:

- bare: simplejpeg decodes the JPEG streams of the tiles from memory and throws the pixels away: the machine's limit;
- fast: `read_chunks` on what `open_slide` gives, as a screening reads it;
- OpenSlide: the same `read_chunks` on OpenSlide.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg

from uadray.bench.slides import MPP, PHANTOM_PX, gpu_tiles, write_slide
from uadray.errors import WorkError
from uadray.slides.opening import open_slide
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.slide import Slide
from uadray.slides.tiff.byte_source import open_source
from uadray.slides.tiff.index import read_index
from uadray.slides.tile_reading import reading_order
from uadray.tiles.chunks import read_chunks
from uadray.tiles.grid import grid
from uadray.tiles.spec import TileSpec

GOALS = {"over_bare": 0.7, "over_openslide": 5.0}
"""Least ratios of tiles per second, on one thread and on two."""

PART = 128
"""Tiles that are measured together, by each way in turn. A part is so short that other load on the machine falls on all
three ways alike."""

Job = Callable[[int, slice], float]
"""Reads a part of the tiles with so many threads; returns the seconds it took."""


def run(*, repeats: int = 4, rounds: int = 3, phantom_px: int = PHANTOM_PX) -> dict[str, Any]:
    """Measure; prints nothing.

    Args:
        repeats: phantoms a side of the slide: 4 of 2048 px are 1,024 file tiles.
        rounds: of measuring; ratios are medians over all parts and rounds.
        phantom_px: side of a phantom.
    """
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        path = write_slide(Path(folder) / "slide.tif", repeats=repeats, phantom_px=phantom_px)
        jpegs = _jpegs(path)
        tiles = all_tiles(path)
        jobs: dict[str, Job] = {
            "bare": lambda threads, part: _timed(threads, jpegs[part], lambda _: None, _decode_all),
            "fast": lambda threads, part: _timed(threads, tiles[part], lambda _: _fast(path), _read),
            "openslide": lambda threads, part: _timed(threads, tiles[part], lambda _: _by_openslide(path), _read),
        }
        parts = [slice(start, start + PART) for start in range(0, len(tiles) - PART + 1, PART)] or [slice(None)]
        seconds: dict[str, list[float]] = {}
        for round_ in range(rounds + 1):  # the first one warms up
            for n in (1, 2):
                for part in parts[: None if round_ else 1]:
                    for name, job in jobs.items():
                        took = job(n, part)
                        if round_:
                            seconds.setdefault(f"{name}_{n}", []).append(took)
        file_bytes = path.stat().st_size
    return _report(seconds, len(tiles[parts[0]]), len(tiles), file_bytes)


def plain_tiles() -> TileSpec:
    """Tiles of 256 px at level 0, without a check of their quality, which the bare decoder does not make either."""
    return gpu_tiles().model_copy(update={"quality": None})


def all_tiles(path: Path) -> pa.Table:
    """All tiles of level 0, those of glass too, in the order in which they are read fastest."""
    spec = plain_tiles()
    with open_slide(path, slide_id="bench") as slide:
        tiles = grid("bench", slide.level_sizes_px[0], slide.mpp, np.ones((8, 8), np.bool_), spec)
        x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
        return tiles.take(reading_order(slide, x, y, mpp=spec.mpp, tile_px=spec.tile_px))


def _report(seconds: dict[str, list[float]], n_part: int, n_tiles: int, file_bytes: int) -> dict[str, Any]:
    def ratio(of: str, to: str) -> float:
        return statistics.median(b / a for a, b in zip(seconds[of], seconds[to], strict=True))

    ratios = {
        f"fast_{name}_{n}_thread{'s' * (n > 1)}": round(ratio(f"fast_{n}", f"{name.removeprefix('over_')}_{n}"), 3)
        for name in GOALS
        for n in (1, 2)
    }
    rates = {f"{name}_tiles_per_s": round(n_part / statistics.median(times)) for name, times in seconds.items()}
    met = all(value >= GOALS["over_bare" if "bare" in name else "over_openslide"] for name, value in ratios.items())
    return {
        "n_tiles": n_tiles, "slide_bytes": file_bytes, "cores": os.cpu_count(), **rates, **ratios,
        "goals": GOALS, "goals_met": met,
    }  # fmt: skip


def _jpegs(path: Path) -> list[bytes]:
    """The tiles of level 0 as JPEG streams that can be decoded by themselves."""
    source = open_source(str(path))
    index = read_index(source)
    if index is None:
        raise WorkError(f"{path}: the benchmark's own slide is not one that the fast path reads")
    level = index.levels[0]
    starts, stops = level.offsets.tolist(), (level.offsets + level.lengths).tolist()
    blobs = source.read(list(zip(starts, stops, strict=True)))
    source.close()
    return [level.tables[:-2] + blob[2:] for blob in blobs]


def _decode_all(_: None, jpegs: Sequence[bytes]) -> None:
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg, colorspace="RGB")


def _fast(path: Path) -> Slide:
    return open_slide(path, slide_id="bench")


def _by_openslide(path: Path) -> Slide:
    return OpenSlideSlide.open(str(path), slide_id="bench", mpp=MPP)


def _read(slide: Slide, tiles: pa.Table) -> None:
    for chunk in read_chunks(slide, tiles, spec=plain_tiles()):
        if any(chunk.errors):
            raise WorkError(f"the benchmark's own slide has tiles that cannot be read: {chunk.errors}")


def _timed(threads: int, work: Any, opened: Callable[[int], Any], read: Callable[[Any, Any], None]) -> float:
    """Seconds to read `work`, shared equally between threads that have opened the slide before the clock starts."""
    each = -(-len(work) // threads)
    parts = [work[i * each : (i + 1) * each] for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool, ExitStack() as stack:
        slides = [opened(i) for i in range(threads)]
        for slide in slides:
            if slide is not None:
                stack.enter_context(slide)
        list(pool.map(time.sleep, [0.001] * threads))  # the threads are there
        start = time.perf_counter()
        list(pool.map(read, slides, parts))
        return time.perf_counter() - start
