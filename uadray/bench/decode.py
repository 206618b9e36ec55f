"""`bench decode`: CPU time a tile of reading a local slide, against the decoder alone and against a plain reader.

Each case is a slide of 256 px JPEG tiles (4:2:0) of one of the usual mpp, cut into tiles of 256 px. One thread reads
those with tissue in several ways, chunk by chunk in turn, so that other load on the machine falls on all ways alike:

- bare: simplejpeg decodes the file tiles that the chunk touches first, at the level that is read, from memory, each
  once, and throws the pixels away: the machine's limit;
- bare_finer: the same at the level that would be read if none could be coarser than the tiles (`max_coarser` 0). Where
  this is another level, decoding less is what `max_coarser` is for, and goals are measured against this;
- plain and flags: `read_chunks` on what `open_slide` gives, as a screening reads it, without and with flags of quality;
- openslide: OpenSlide's `read_region` at the level that it says is best, then OpenCV's area resampling: what one would
  write first.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from uadray.bench.screen_limit import tissue_tiles
from uadray.bench.slides import MPP_CASES, write_slide
from uadray.errors import InputError, WorkError
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.slides.tiff.byte_source import open_source
from uadray.slides.tiff.index import read_index
from uadray.slides.tiff.read_ahead import touched_tiles
from uadray.tiles.chunks import chunk_tiles, places_of, read_chunks
from uadray.tiles.spec import TileSpec

GOALS = {
    "exact": {"plain_over_bare": 0.75, "flags_over_bare": 0.7, "plain_over_openslide": 5.0},
    "0.4990": {"plain_over_bare": 0.5, "flags_over_bare": 0.45, "plain_over_openslide": 3.5},
    "0.2525": {"plain_over_bare": 0.7, "flags_over_bare": 0.6, "plain_over_openslide": 4.0},
}
"""The least that the CPU time of bare decoding, and of OpenSlide, may be over that of reading. Bare decoding is that of
`bare_finer`, which is `bare` but for 0.2525."""

REPEATS = 5
"""Phantoms along a slide's side where tiles have its mpp; twice as many where they have twice its mpp."""

Job = Callable[[], None]
"""Reads one chunk."""


def run(*, only: Sequence[str] = (), rounds: int = 3, repeats: int = REPEATS) -> dict[str, Any]:
    """Measure; prints nothing. Takes a minute and a half on an idle core.

    Args:
        only: cases; all unless given.
        rounds: how often each slide is read; ratios are medians over chunks and rounds, of which the first warms up.
        repeats: see `REPEATS`.

    Raises:
        InputError: there is no such case.
    """
    if unknown := [name for name in only if name not in GOALS]:
        raise InputError(f"bench decode has no case {unknown[0]!r}; there are: {', '.join(GOALS)}")
    cases = {name: _case(name, rounds, repeats) for name in GOALS if name in only or not only}
    met = all(cases[name][ratio] >= least for name in cases for ratio, least in GOALS[name].items())
    return {"cases": cases, "goals": {name: GOALS[name] for name in cases}, "goals_met": met}


def _case(name: str, rounds: int, repeats: int) -> dict[str, Any]:
    """CPU milliseconds a tile of each way, and their ratios, of one slide."""
    mpp_level0, mpp = MPP_CASES[name]
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        path = write_slide(Path(folder) / "slide.tif", repeats=repeats * round(mpp / mpp_level0), mpp=mpp_level0)
        judged = TileSpec(mpp=mpp, tile_px=256)
        spec = judged.model_copy(update={"quality": None})
        tiles = _tiles(path, spec)
        chunks = [tiles.slice(start, chunk_tiles(spec)) for start in range(0, len(tiles), chunk_tiles(spec))]
        jobs: dict[str, Callable[[ExitStack], list[Job]]] = {
            "bare": lambda _: _bare(path, tiles, chunks, spec),
            "bare_finer": lambda _: _bare(path, tiles, chunks, spec.model_copy(update={"max_coarser": 0.0})),
            "plain": lambda stack: _ours(path, tiles, chunks, spec, stack),
            "flags": lambda stack: _ours(path, tiles, chunks, judged, stack),
            "openslide": lambda stack: _by_openslide(path, chunks, spec, mpp_level0, stack),
        }
        seconds: dict[str, list[float]] = {way: [] for way in jobs}
        for round_ in range(rounds + 1):
            with ExitStack() as stack:
                begun = {way: job(stack) for way, job in jobs.items()}
                for number in range(len(chunks)):
                    for way, its_jobs in begun.items():
                        took = _cpu_seconds(its_jobs[number])
                        if round_:
                            seconds[way].append(took)
    return {"tiles": len(tiles), **_figures(seconds, [len(chunk) for chunk in chunks] * rounds)}


def _figures(seconds: dict[str, list[float]], counts: Sequence[int]) -> dict[str, float]:
    """Medians over chunks, each weighted alike, of milliseconds a tile and of ratios."""

    def over(way: str, peer: str) -> float:
        return round(statistics.median(b / a for a, b in zip(seconds[way], seconds[peer], strict=True)), 3)

    costs = {
        f"{way}_ms": round(1e3 * statistics.median(s / n for s, n in zip(times, counts, strict=True)), 3)
        for way, times in seconds.items()
    }
    ratios = {f"{way}_over_bare": over(way, "bare_finer") for way in ("plain", "flags")}
    same_level = {f"{way}_over_bare_of_its_level": over(way, "bare") for way in ("plain", "flags")}
    return costs | ratios | same_level | {"plain_over_openslide": over("plain", "openslide")}


def _tiles(path: Path, spec: TileSpec) -> pa.Table:
    """The tiles that a screening reads, those with tissue: whole chunks of them, in the order of its plan."""
    tiles = tissue_tiles(path, spec)
    return tiles.slice(0, len(tiles) // chunk_tiles(spec) * chunk_tiles(spec) or len(tiles))  # no last, short chunk


def _bare(path: Path, tiles: pa.Table, chunks: Sequence[pa.Table], spec: TileSpec) -> list[Job]:
    """Decode the file tiles that each chunk touches first, as streams that can be decoded by themselves."""
    source = open_source(str(path))
    index = read_index(source)
    if index is None:
        raise WorkError(f"{path}: the benchmark's own slide is not one that the fast path reads")
    with open_slide(path, slide_id="bench") as slide:
        places = places_of(slide, tiles, spec)
    level = index.levels[places.level]
    box, number = touched_tiles(level, places.boxes)
    _, first = np.unique(number, return_index=True)
    ends = np.cumsum([len(chunk) for chunk in chunks])
    jobs = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        mine = number[np.sort(first[(box[first] >= begin) & (box[first] < end)])]
        starts, stops = level.offsets[mine], level.offsets[mine] + level.lengths[mine]
        blobs = source.read(list(zip(starts.tolist(), stops.tolist(), strict=True)))
        jobs.append(_decoding([level.tables[:-2] + blob[2:] for blob in blobs]))
    source.close()
    return jobs


def _decoding(jpegs: Sequence[bytes]) -> Job:
    def decode() -> None:
        for jpeg in jpegs:
            simplejpeg.decode_jpeg(jpeg, colorspace="RGB")

    return decode


def _ours(path: Path, tiles: pa.Table, chunks: Sequence[pa.Table], spec: TileSpec, stack: ExitStack) -> list[Job]:
    """Read the next chunk of the whole slide, whose decoded tiles are kept between chunks."""
    slide: Slide = stack.enter_context(open_slide(path, slide_id="bench"))
    reading = read_chunks(slide, tiles, spec=spec)

    def read() -> None:
        if any(next(reading).errors):
            raise WorkError("the benchmark's own slide has tiles that cannot be read")

    return [read] * len(chunks)


def _by_openslide(
    path: Path, chunks: Sequence[pa.Table], spec: TileSpec, mpp_level0: float, stack: ExitStack
) -> list[Job]:
    """Read each tile by OpenSlide, and resample it."""
    import openslide

    slide = stack.enter_context(openslide.OpenSlide(str(path)))
    level = slide.get_best_level_for_downsample(spec.mpp / mpp_level0 + 1e-6)
    side = round(spec.tile_px * spec.mpp / (mpp_level0 * slide.level_downsamples[level]))

    def job(chunk: pa.Table) -> Job:
        corners = list(zip(*(chunk[name].to_pylist() for name in ("x_level0_px", "y_level0_px")), strict=True))

        def read() -> None:
            out = np.empty((len(corners), spec.tile_px, spec.tile_px, 3), np.uint8)
            for i, corner in enumerate(corners):
                region = np.asarray(slide.read_region(corner, level, (side, side)).convert("RGB"))
                out[i] = cv2.resize(region, (spec.tile_px, spec.tile_px), interpolation=cv2.INTER_AREA)

        return read

    return [job(chunk) for chunk in chunks]


def _cpu_seconds(job: Job) -> float:
    """CPU time of all threads of this process; what a way does on a second one counts too."""
    began = time.process_time()
    job()
    return time.process_time() - began
