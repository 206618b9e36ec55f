"""`bench s3`: tiles of a slide in S3, 20 ms away, against downloading the slide and reading it with OpenSlide.

The slide lies on a real SeaweedFS behind `DelayProxy`. There are two jobs: to read 5 % of the tiles, drawn at random
(tissue would lie together, which is easier), and to read all. In each round both ways do both jobs, each time from a
slide that has to be opened and is not in the cache. Bytes are counted at the proxy, with the file's headers and index
and with HTTP's. A screening reads the thumbnail too, whichever way; its bytes and time are figures by themselves.

The cases are those of `slides.MPP_CASES`, each with a slide of its own. Goals are of `exact`.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.bench.proxy import DelayProxy
from uadray.bench.seaweed import environment, served
from uadray.bench.slides import DOWNSAMPLES, MPP_CASES, PHANTOM_PX, gpu_tiles
from uadray.errors import InputError, WorkError
from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.pyramid import write_pyramid
from uadray.phantoms.tissue import paint
from uadray.slides.opening import open_slide
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.slide import Slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tiff.slide import TiffSlide
from uadray.slides.tile_reading import reading_order, tile_places
from uadray.storage import objects
from uadray.tiles.chunks import read_chunks
from uadray.tiles.grid import grid
from uadray.tiles.spec import TileSpec

ROUND_TRIP_S = 0.02
SHARES = {"5_percent": 0.05, "100_percent": 1.0}
GOALS = {
    "read_over_needed_5_percent": 1.5,
    "read_over_needed_100_percent": 1.1,
    "time_over_download_5_percent": 0.4,
    "time_over_download_100_percent": 0.4,
}
"""The most of each ratio, in the exact case."""

NOISE_GREYS = 6.0
"""Standard deviation of the noise that is added. It makes tiles of 15 KB, as those of CMU-1-Small-Region.svs are."""


def run(*, only: Sequence[str] = (), repeats: int = 6, rounds: int = 3, phantom_px: int = PHANTOM_PX) -> dict[str, Any]:
    """Measure; prints nothing. Figures of the exact case stand beside `cases`, which has those of the others.

    Args:
        only: cases; all unless given.
        repeats: phantoms a side of the slide: 6 of 2048 px are 2,304 file tiles and 45 MB.
        rounds: of measuring; figures are medians over rounds. The 5 % are read three times a round.
        phantom_px: side of a phantom.

    Raises:
        InputError: SeaweedFS is not installed, or there is no such case.
    """
    if unknown := set(only) - set(MPP_CASES):
        raise InputError(f"bench s3 has no case {', '.join(sorted(unknown))}; there are: {', '.join(MPP_CASES)}")
    with (
        tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder,
        served(Path(folder) / "seaweed") as server,
        DelayProxy(server.port, round_trip_s=ROUND_TRIP_S) as proxy,
    ):
        cases = {}
        for case in only or MPP_CASES:
            path = _write_slide(Path(folder) / f"{case}.tif", repeats, phantom_px, mpp=MPP_CASES[case][0])
            uri = f"s3://{server.bucket}/{case}.tif"
            objects.write_bytes(uri, path.read_bytes())
            cache = Path(folder) / "cache"
            with environment({"AWS_ENDPOINT_URL": proxy.endpoint, "UADRAY_CACHE_SLIDES": str(cache)}):
                measured = _measured(uri, _plain_tiles(MPP_CASES[case][1]), proxy, cache, rounds)
            cases[case] = {"slide_bytes": path.stat().st_size, **measured}
    exact = cases.pop("exact", {})
    met = all(exact[name] <= goal for name, goal in GOALS.items()) if exact else True
    return {"round_trip_s": ROUND_TRIP_S, **exact, "cases": cases, "goals": GOALS, "goals_met": met}


def _plain_tiles(mpp: float) -> TileSpec:
    """Tiles of 256 px without a check of their quality, for which neither way is made."""
    return gpu_tiles(mpp).model_copy(update={"quality": None})


def _measured(uri: str, spec: TileSpec, proxy: DelayProxy, cache: Path, rounds: int) -> dict[str, Any]:
    tables, needed = _jobs(uri, spec)
    measurements: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):  # the first one warms up: imports, connections, the server's memory
        for name in [*["5_percent"] * (3 if round_ else 1), "100_percent"]:
            read_bytes, fast_s = _cost(proxy, partial(_read, _fast, uri, tables[name], spec))
            shutil.rmtree(cache, ignore_errors=True)
            _, download_s = _cost(proxy, partial(_read, _downloaded, uri, tables[name], spec))
            thumbnail_bytes, thumbnail_s = _cost(proxy, partial(_thumbnail, uri))
            measured = {
                f"read_over_needed_{name}": read_bytes / needed[name],
                f"time_over_download_{name}": fast_s / download_s,
                f"fast_{name}_s": fast_s,
                f"download_{name}_s": download_s,
                "thumbnail_bytes": thumbnail_bytes,
                "thumbnail_s": thumbnail_s,
            }
            for figure, value in measured.items() if round_ else ():
                measurements.setdefault(figure, []).append(value)
    counts = {f"tiles_{name}": len(tiles) for name, tiles in tables.items()}
    return counts | {name: round(statistics.median(values), 4) for name, values in measurements.items()}


def _jobs(uri: str, spec: TileSpec) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """The tiles of each job, in the order to read them, and the bytes of the file tiles they are made of."""
    with _fast(uri) as slide:
        tiles = grid("bench", slide.level_sizes_px[0], slide.mpp, np.ones((8, 8), np.bool_), spec)
        tiles = tiles.filter(np.asarray(tiles["tissue_fraction"]) == 1)  # those that lie wholly inside the slide
        tables, needed = {}, {}
        for name, share in SHARES.items():
            chosen = np.random.default_rng(0).permutation(len(tiles))[: max(1, round(share * len(tiles)))]
            x, y = (tiles[column].to_numpy()[chosen] for column in ("x_level0_px", "y_level0_px"))
            order = reading_order(slide, x, y, mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser)
            tables[name] = tiles.take(chosen[order])
            places = tile_places(slide, x, y, mpp=spec.mpp, tile_px=spec.tile_px, max_coarser=spec.max_coarser)
            needed[name] = slide.encoded_bytes(places.level, places.boxes)
    return tables, needed


def _cost(proxy: DelayProxy, job: Callable[[], None]) -> tuple[float, float]:
    """Do a job; returns the bytes that came through the proxy, and the seconds."""
    before, start = proxy.received, time.perf_counter()
    job()
    return proxy.received - before, time.perf_counter() - start


def _fast(uri: str) -> TiffSlide:
    slide = open_slide(uri, slide_id="bench")
    if not isinstance(slide, TiffSlide):
        raise WorkError(f"{uri}: the benchmark's own slide is not one that the fast path reads")
    return slide


def _downloaded(uri: str) -> Slide:
    return OpenSlideSlide.open(uri, slide_id="bench", mpp=None)


def _read(opened: Callable[[str], Slide], uri: str, tiles: pa.Table, spec: TileSpec) -> None:
    with opened(uri) as slide:
        for chunk in read_chunks(slide, tiles, spec=spec):
            if any(chunk.errors):
                raise WorkError(f"the benchmark's own slide has tiles that cannot be read: {chunk.errors}")


def _thumbnail(uri: str) -> None:
    with _fast(uri) as slide:
        thumbnail(slide)


def _write_slide(path: Path, repeats: int, side: int, *, mpp: float) -> Path:
    image, _ = paint(PhantomSpec(side, side, mpp, lesion=False, stain=0, seed=0))
    noise = np.random.default_rng(0).normal(0, NOISE_GREYS, image.shape)
    noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    return write_pyramid(path, np.tile(noisy, (repeats, repeats, 1)), mpp=mpp, downsamples=DOWNSAMPLES)
