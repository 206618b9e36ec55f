"""`bench export`: a screening of 1,000 slides of 10,000 tiles in other tools' formats: slides a second, and memory.

The job is `uadray export` as a user runs it, of made-up scores; of each format the whole archive and a tenth of it.
Memory is that of all its processes together, read from /proc ten times a second; a second run, when all is there, is
timed too. Regions are compared with `shapely.union_all` of the same tiles, in one process.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from uadray.bench.export_material import SPEC, TILE_PX, decision_of, scores_in_patches, tiles_of, write_screening
from uadray.bench.processes import descendants, memory
from uadray.errors import InputError, WorkError
from uadray.exports import qupath_geojson
from uadray.exports.exported_slide import ExportedSlide, ExportOptions, boxes_of
from uadray.exports.regions import regions_of

SLIDES_PER_S = {"wsinfer-csv": 25.0, "geojson": 25.0, "hdf5": 25.0, "ome-tiff": 5.0, "dzi": 5.0}
"""At least so many."""

GOALS = {"peak_mb": 1200.0, "growth": 1.25, "regions_over_shapely": 0.5, "geojson_mb": 5.0}
"""At most: memory of all processes, its growth from a tenth of the slides to all, the time of regions, and the largest
GeoJSON of 100,000 tiles."""

CASES = ("lesions", "scattered", "chessboard")

EXPORT = "import sys; from uadray.cli import main; sys.exit(main())"

TABLES = 20
"""Different ones, which the slides share."""

LOW = 0.8
"""A threshold that a fifth of made-up tiles are above, more than of any sensible one."""


def run(*, only: Sequence[str] = (), slides: int = 1000, tiles: int = 10_000, large: int = 100_000) -> dict[str, Any]:
    """Measure; prints nothing. Takes some minutes.

    Args:
        only: formats; all that have a goal unless given.
        slides: of the archive.
        tiles: of each slide, rounded to a square.
        large: tiles of the slide whose GeoJSON is measured.

    Raises:
        InputError: `only` names no format.
    """
    formats = only or tuple(SLIDES_PER_S)
    for name in set(formats) - set(SLIDES_PER_S):
        raise InputError(f"bench export has no {name!r}; there are: {', '.join(SLIDES_PER_S)}")
    side = round(tiles**0.5)
    width = round(1.4 * side * TILE_PX)  # half of the slide is glass
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        folder = Path(name)
        tables = [tiles_of("s", scores_in_patches(side, seed)) for seed in range(min(TABLES, slides))]
        for n in (slides, max(2, slides // 10)):
            rows = [decision_of(f"slide-{i:06d}", width_level0_px=width, height_level0_px=width) for i in range(n)]
            write_screening(folder / str(n), rows, tables)
        figures = {each: _measured(folder, each, slides) for each in formats}
    return _judged(figures, slides, side * side, large)


def _judged(figures: dict[str, dict[str, float]], slides: int, tiles: int, large: int) -> dict[str, Any]:
    sizes = geojson_mb(large)
    worst = {
        "peak_mb": max(each["peak_mb"] for each in figures.values()),
        "growth": max(each["growth"] for each in figures.values()),
        "regions_over_shapely": regions_over_shapely(),
        "geojson_mb": max(sizes.values()),
    }
    is_fast = all(each["slides_per_s"] >= SLIDES_PER_S[name] for name, each in figures.items())
    return {
        "slides": slides,
        "tiles": tiles,
        "formats": figures,
        **worst,
        "geojson_mb_of": sizes,
        "goals": GOALS | {"slides_per_s": {name: SLIDES_PER_S[name] for name in figures}},
        "goals_met": is_fast and all(value <= GOALS[name] for name, value in worst.items()),
    }


def _measured(folder: Path, format_name: str, slides: int) -> dict[str, float]:
    """Slides a second, MB of memory and of files, and how memory grows from a tenth of the slides to all."""
    few = max(2, slides // 10)
    _, few_mb, _ = _exported(folder, format_name, few)
    before = _cpu_s()
    seconds, peak_mb, written = _exported(folder, format_name, slides)
    cpu_s = _cpu_s() - before
    again_s, _, _ = _exported(folder, format_name, slides)
    return {
        "slides_per_s": round(slides / seconds, 1),
        "seconds": round(seconds, 2),
        "seconds_again": round(again_s, 2),
        "cpu_ms_a_slide": round(1000 * cpu_s / slides, 1),
        "peak_mb": round(peak_mb, 1),
        "growth": round(peak_mb / few_mb, 3),
        "mb_a_slide": round(written / 1e6 / slides, 3),
    }


def _cpu_s() -> float:
    """CPU seconds of all processes that have ended: less at the mercy of what else the machine does than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _exported(folder: Path, format_name: str, slides: int) -> tuple[float, float, int]:
    """Seconds, the peak of memory in MB, and bytes written by one run of the command."""
    out, to = folder / str(slides), folder / f"{format_name}-{slides}"
    command = [sys.executable, "-c", EXPORT, "export", str(out), "--format", format_name, "--to", str(to)]
    began, peak = time.perf_counter(), 0
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, sum(size.own + size.shared for size in map(memory, descendants(process.pid))))
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - began
        log.seek(0)
        lines = log.read().splitlines()
    if process.returncode:
        raise WorkError(f"the export of {format_name} failed: {lines[-1][-500:] if lines else process.returncode}")
    return seconds, peak / 1e6, int(json.loads(lines[-1])["bytes"])


def geojson_mb(
    tiles: int = 100_000, *, only: Sequence[str] = ("lesions", "scattered", "chessboard")
) -> dict[str, float]:
    """MB of the GeoJSON of a slide: of lesions, of scattered tiles, and of a chessboard, the most regions."""
    side = round(tiles**0.5)
    rng = np.random.default_rng(0)
    cases = {
        "lesions": scores_in_patches(side, 0),
        "scattered": rng.normal(size=(side, side)),
        "chessboard": np.indices((side, side)).sum(0) % 2 * 2.0,
    }
    decision = decision_of("slide")
    sizes = {}
    for name in only:
        slide = ExportedSlide(decision, tiles_of("slide", cases[name]), SPEC, "made-up")
        sizes[name] = round(len(qupath_geojson.exported(slide, ExportOptions(threshold=LOW))) / 1e6, 3)
    return sizes


def regions_over_shapely(side: int = 100) -> float:
    """Time for the regions of a slide of `side` x `side` tiles over that of `shapely.union_all` of their boxes."""
    scores = scores_in_patches(side, 1)
    boxes = boxes_of(tiles_of("s", scores))[scores.ravel() > LOW]

    def seconds(work: Any) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return min(times)

    x, y = boxes[:, 0], boxes[:, 1]
    ours = seconds(lambda: regions_of(boxes))
    return round(ours / seconds(lambda: shapely.union_all(shapely.box(x, y, x + TILE_PX, y + TILE_PX))), 3)
