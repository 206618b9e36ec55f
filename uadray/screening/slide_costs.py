"""What a job takes of one slide, measured: its tiles, bytes read and written, and CPU seconds.

The slide is planned as the job would plan it, and some of its consecutive tiles are read (and encoded, where the job
writes tiles).
"""

import io
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import SlideError, UadrayError
from uadray.schemas import TILE_SCORES
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.slides.tiff.slide import TiffSlide
from uadray.storage import objects
from uadray.tiles.chunks import places_of, read_chunks
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain_normalize import Normalizer
from uadray.tilesets.cutting import chosen_tiles
from uadray.tilesets.encoding import encoded_tiles

Job = Literal["tile", "screen"]


@dataclass(frozen=True)
class SlideCosts:
    """What was measured of one slide; zeros for one that cannot be used.

    Attributes:
        tiles: that the job would read.
        bytes_read: of the file, for all tiles.
        bytes_written: for all tiles, from those that were tried.
        plan_s: seconds to open the slide and plan its tiles.
        tried: tiles that were read.
        read_s: seconds to read and, for `tile`, encode these.
        error: why the slide cannot be used.
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


def measure_slide(
    row: SlideRow, spec: TileSpec, job: Job, per_slide: int | None, quality: int, sample_tiles: int, seed: int
) -> SlideCosts:
    """Measure one slide; one that cannot be used is an answer, with its error.

    Args:
        row: the slide.
        spec: how tiles are cut.
        job: what is done with them.
        per_slide: random tiles of the slide; None for all.
        quality: of JPEG, for the job `tile`.
        sample_tiles: tiles to read at the most.
        seed: chooses which.
    """
    began = time.perf_counter()
    try:
        etag = slide_etag(row)
        with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
            tiles, normalise = chosen_tiles(slide, etag, spec, per_slide=per_slide, seed=seed)
            plan_s = time.perf_counter() - began
            n = min(sample_tiles, len(tiles))
            start = int(np.random.default_rng(seed).integers(len(tiles) - n + 1))
            tried = tiles.slice(start, n)  # in reading order: neighbours share tiles of the file, as they do in the job
            began = time.perf_counter()
            written = _bytes_written(slide, tried, spec, job, quality, normalise)
            read_s = time.perf_counter() - began
            bytes_written = written * len(tiles) / n if n else 0.0
            return SlideCosts(len(tiles), _bytes_read(slide, row, tiles, spec), bytes_written, plan_s, n, read_s)
    except UadrayError as error:
        reason = f"{error.reason}: {error.message}" if isinstance(error, SlideError) else str(error)
        return SlideCosts(plan_s=time.perf_counter() - began, error=reason)


def _bytes_written(
    slide: Slide, tiles: pa.Table, spec: TileSpec, job: Job, quality: int, normalise: Normalizer | None
) -> int:
    """Do the job's work on `tiles`; returns the bytes that it would write."""
    if job == "tile":
        encoded = encoded_tiles(slide, tiles, spec, quality=quality, normalise=normalise, left_out=Counter())
        return sum(len(tile.jpeg) for tile in encoded)
    for _ in read_chunks(slide, tiles, spec=spec, normalise=normalise):
        pass
    return _score_bytes(tiles)


def _score_bytes(tiles: pa.Table) -> int:
    """Size of a Parquet file with made-up scores of these tiles."""
    rng, n = np.random.default_rng(0), len(tiles)
    columns: dict[str, Any] = {name: tiles[name] for name in tiles.column_names}
    columns |= {"score": rng.random(n), "mean_saturation": rng.random(n, np.float32)}
    columns |= {"mean_green": rng.random(n, np.float32), "flag": pa.nulls(n, pa.string())}
    columns["error"] = pa.nulls(n, pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=TILE_SCORES), sink, compression="zstd")
    return sink.tell()


def _bytes_read(slide: Slide, row: SlideRow, tiles: pa.Table, spec: TileSpec) -> int:
    """Bytes of the file that all tiles need, each counted once; the whole file where that cannot be told.

    What the thumbnail needs is left out.
    """
    if not len(tiles):
        return 0
    if isinstance(slide, TiffSlide):
        tiles_at = places_of(slide, tiles, spec)
        return slide.encoded_bytes(tiles_at.level, tiles_at.boxes)
    return objects.stat(row.uri).size
