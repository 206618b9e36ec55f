"""What a job will take, before it is started: tiles, bytes and hours, from a measured sample of the slides.

Sampled slides are planned as the job would plan them, and a run of each one's tiles is read (and encoded, where tiles
will be written). Bytes of slides on the fast path are counted from their index; of others it is the whole file.
"""

import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from uadray.cluster.connection import cores
from uadray.errors import SlideError, UadrayError
from uadray.schemas import TILE_SCORES
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.slides.tiff.slide import TiffSlide
from uadray.storage import objects
from uadray.tiles.plan import read_chunks, slide_etag
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Normalizer
from uadray.tilesets.cutting import chosen_tiles
from uadray.tilesets.encoding import encoded_tiles, places

RESAMPLES = 1000
"""Of the bootstrap (Efron 1979) behind `_low` and `_high`: the 5th and 95th percentile of the sample's mean."""

Job = Literal["tile", "screen"]


@dataclass(frozen=True)
class Sample:
    """One slide, measured; zeros for one that cannot be used.

    Attributes:
        tiles: that the job would read.
        bytes_read: of the file, for all tiles.
        bytes_written: for all tiles, from those that were tried.
        plan_s: seconds to open the slide and plan its tiles.
        tried: tiles that were read.
        read_s: seconds to read and, for `tile`, encode these.
        error: why it cannot be used.
    """

    tiles: int = 0
    bytes_read: int = 0
    bytes_written: float = 0.0
    plan_s: float = 0.0
    tried: int = 0
    read_s: float = 0.0
    error: str | None = None

    @property
    def seconds(self) -> float:
        """CPU seconds of the whole slide."""
        return self.plan_s + (self.read_s / self.tried * self.tiles if self.tried else 0.0)


def estimate(
    rows: Sequence[SlideRow], spec: TileSpec, *, job: Job = "tile", tiles_per_slide: int | None = None,
    quality: int = 90, seconds_per_tile: float = 0.0, sample_slides: int = 20, sample_tiles: int = 256, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Tiles, bytes and hours of a job on this cluster, from slides sampled at random.

    Args:
        rows: the slides.
        spec: how tiles are cut.
        job: what is done with them.
        tiles_per_slide: as in `tile_set`.
        quality: as in `tile_set`.
        seconds_per_tile: CPU seconds that scoring takes a tile, as measured; 0 leaves scoring out.
        sample_slides: slides to sample, at the most.
        sample_tiles: tiles to read of each, at the most.
        seed: of the sample.

    Returns:
        `slides`, `tiles`, `bytes_read`, `bytes_written`, `hours` for all CPUs of the cluster, each of the last four
        with `_low` and `_high`; `sampled_slides`, `sampled_tiles`, `cpus`, `read_seconds_per_tile` (mean and standard
        deviation over slides), `scoring_included`, and `unusable` slides of the sample.
    """
    count = min(sample_slides, len(rows))
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    task = ray.remote(num_cpus=1)(_measured)
    refs = [task.remote(rows[i], spec, job, tiles_per_slide, quality, sample_tiles, seed) for i in chosen]
    samples: list[Sample] = ray.get(refs)
    cpus = cores()
    per_slide: dict[str, Sequence[float]] = {
        "tiles": [s.tiles for s in samples],
        "bytes_read": [s.bytes_read for s in samples],
        "bytes_written": [s.bytes_written for s in samples],
        "hours": [(s.seconds + s.tiles * seconds_per_tile) / cpus / 3600 for s in samples],
    }
    paces = np.array([s.read_s / s.tried for s in samples if s.tried])
    return {
        "slides": len(rows),
        **{k: v for name, values in per_slide.items() for k, v in _total(name, values, len(rows), seed).items()},
        "sampled_slides": count,
        "sampled_tiles": sum(s.tried for s in samples),
        "cpus": cpus,
        "read_seconds_per_tile": {"mean": _mean(paces), "sd": float(paces.std()) if len(paces) else None},
        "scoring_included": seconds_per_tile > 0,
        "unusable": {rows[i].slide_id: s.error for i, s in zip(chosen, samples, strict=True) if s.error},
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _total(name: str, values: Sequence[float], n_slides: int, seed: int) -> dict[str, float]:
    """The sample's mean times all slides, and how far another sample's could lie from it."""
    sample = np.array(values, np.float64)
    draws = np.random.default_rng([seed, 1]).choice(sample, (RESAMPLES, len(sample))).mean(axis=1)
    low, high = np.percentile(draws, (5, 95)) * n_slides
    if name == "tiles" and len(sample) == n_slides:
        low = high = sample.sum()  # nothing is left to chance
    total = {name: sample.mean() * n_slides, f"{name}_low": low, f"{name}_high": high}
    return {k: float(v) if name == "hours" else round(v) for k, v in total.items()}


def _measured(
    row: SlideRow, spec: TileSpec, job: Job, per_slide: int | None, quality: int, sample_tiles: int, seed: int
) -> Sample:
    began = time.perf_counter()
    try:
        etag = slide_etag(row)
        with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
            tiles, normalise = chosen_tiles(slide, etag, spec, per_slide=per_slide, seed=seed)
            plan_s = time.perf_counter() - began
            n = min(sample_tiles, len(tiles))
            start = int(np.random.default_rng(seed).integers(len(tiles) - n + 1))
            tried = tiles.slice(start, n)  # in reading order: neighbours share the file's tiles, as in the job
            began = time.perf_counter()
            written = _tried(slide, tried, spec, job, quality, normalise)
            read_s = time.perf_counter() - began
            share = len(tiles) / n if n else 0.0
            return Sample(len(tiles), _bytes_read(slide, row, tiles, spec), written * share, plan_s, n, read_s)
    except UadrayError as error:
        reason = f"{error.reason}: {error.message}" if isinstance(error, SlideError) else str(error)
        return Sample(plan_s=time.perf_counter() - began, error=reason)


def _tried(slide: Slide, tiles: pa.Table, spec: TileSpec, job: Job, quality: int, normalise: Normalizer | None) -> int:
    """Do the work; returns the bytes that would be written."""
    if job == "tile":
        encoded = encoded_tiles(slide, tiles, spec, quality=quality, normalise=normalise, left_out=Counter())
        return sum(len(data) for _, data, _ in encoded)
    for _ in read_chunks(slide, tiles, spec=spec, normalise=normalise):
        pass
    rng, n = np.random.default_rng(0), len(tiles)
    columns: dict[str, Any] = {name: tiles[name] for name in tiles.column_names}
    columns |= {"score": rng.random(n), "mean_saturation": rng.random(n, np.float32)}
    columns |= {"mean_green": rng.random(n, np.float32), "flag": pa.nulls(n, pa.string())}
    columns["error"] = pa.nulls(n, pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=TILE_SCORES), sink, compression="zstd")
    return sink.tell()


def _bytes_read(slide: Slide, row: SlideRow, tiles: pa.Table, spec: TileSpec) -> int:
    """Of the file; the thumbnail is left out, and everything is counted once."""
    if not len(tiles):
        return 0
    if isinstance(slide, TiffSlide):
        where = places(slide, tiles, spec)
        return slide.encoded_bytes(where.level, where.boxes)
    return objects.stat(row.uri).size
