"""One slide -> its shards of a tile set, and their commit."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.stage_seconds import timed
from uadray.storage import objects
from uadray.tiles.chunks import normalizer_of
from uadray.tiles.plan import plan_slide
from uadray.tiles.sampling import draw
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain_normalize import Normalizer
from uadray.tilesets.commits import commit, slide_fingerprint
from uadray.tilesets.encoding import EncodedTile, encoded_tiles
from uadray.tilesets.records import GROUP_TILES, CutOptions, SlideTiles
from uadray.tilesets.shards import TILE_IMAGES

SHARD_BYTES = 64 * 2**20
"""A shard is ended by the tile that reaches so many encoded bytes: about what a task holds in memory, and what one
write has to repeat when it fails."""


@dataclass(frozen=True)
class _Shard:
    """One written file: its name, its tiles, those of them with the bytes of the slide's file, and its size."""

    name: str
    n_tiles: int
    n_kept: int
    n_bytes: int


def cut_slide(row: SlideRow, spec: TileSpec, options: CutOptions, out: str) -> SlideTiles:
    """Write a slide's shards into the folder `out` and commit them.

    Raises:
        SlideError: the slide cannot be read.
    """
    with timed("stat"):
        etag = slide_etag(row)
    version = slide_fingerprint(row, spec, options, etag=etag)
    left_out: Counter[str] = Counter()
    with timed("plan"):
        opened = open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag)
    with opened as slide:
        tiles, normalise = chosen_tiles(slide, etag, spec, per_slide=options.tiles_per_slide, seed=options.seed)
        encoded = encoded_tiles(slide, tiles, spec, quality=options.quality, normalise=normalise, left_out=left_out)
        shards = [
            _write_shard(row, number, shard, tiles, spec=spec, options=options, version=version, out=out)
            for number, shard in enumerate(_by_bytes(encoded))
        ]
    slide_tiles = SlideTiles(
        slide_id=row.slide_id, fingerprint=version, etag=etag, label=row.label,
        shards=[shard.name for shard in shards], rows=[shard.n_tiles for shard in shards],
        kept=sum(shard.n_kept for shard in shards), unreadable=left_out["unreadable"], flagged=left_out["flagged"],
        bytes=sum(shard.n_bytes for shard in shards),
    )  # fmt: skip
    with timed("commit"):
        commit(out, slide_tiles)
    return slide_tiles


def chosen_tiles(
    slide: Slide, etag: str, spec: TileSpec, *, per_slide: int | None, seed: int
) -> tuple[pa.Table, Normalizer | None]:
    """A slide's good tiles with enough tissue, or `per_slide` random ones, in reading order; and what changes colours.

    Raises:
        SlideError: see `plan_slide`.
    """
    with timed("plan", whole=True):
        plan = plan_slide(slide, etag=etag, spec=spec)
    count = per_slide or len(plan.tiles)
    tiles = plan.tiles.take(draw(len(plan.tiles), count, (seed, _number(slide.slide_id))))
    return tiles, normalizer_of(plan.stain, spec)


def _number(slide_id: str) -> int:
    """A slide's id as a number for seeds."""
    return int.from_bytes(hashlib.sha256(slide_id.encode()).digest()[:8], "big")


def _by_bytes(tiles: Iterable[EncodedTile]) -> Iterator[list[EncodedTile]]:
    """Consecutive tiles of about `SHARD_BYTES` together."""
    shard: list[EncodedTile] = []
    size = 0
    for tile in tiles:
        shard.append(tile)
        size += len(tile.jpeg)
        if size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _write_shard(
    row: SlideRow, number: int, shard: list[EncodedTile], tiles: pa.Table, *, spec: TileSpec, options: CutOptions,
    version: str, out: str,
) -> _Shard:  # fmt: skip
    """Write one shard, its tiles shuffled: a row group is then a sample of the slide instead of one region of it."""
    rng = np.random.default_rng([options.seed, _number(row.slide_id), number])
    shuffled = [shard[i] for i in rng.permutation(len(shard))]
    name = f"part-{row.slide_id}-{version[:8]}-{number}.parquet"
    with timed("commit"):
        data = _parquet(shuffled, tiles, spec, row.label, options.quality)
        objects.write_bytes(objects.join(out, name), data)
    return _Shard(name, len(shard), sum(tile.is_files for tile in shard), len(data))


def _parquet(shard: list[EncodedTile], tiles: pa.Table, spec: TileSpec, label: str | None, quality: int) -> bytes:
    """A Parquet file of schema `TILE_IMAGES`."""
    chosen = tiles.take([tile.row for tile in shard])
    columns = {name: chosen[name] for name in tiles.column_names}
    n = len(shard)
    columns |= {
        "mpp": pa.array([spec.mpp] * n, pa.float64()),
        "label": pa.array([label] * n, pa.string()),
        "image": pa.array([tile.jpeg for tile in shard], pa.binary()),
        "format": pa.array(["jpeg" if tile.is_files else f"jpeg 4:4:4 q{quality}" for tile in shard], pa.string()),
    }
    compression = {name: "none" if name == "image" else "zstd" for name in TILE_IMAGES.names}
    repetitive = [name for name in TILE_IMAGES.names if name not in ("image", "tile_id")]
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=TILE_IMAGES), sink, row_group_size=GROUP_TILES, compression=compression,
        use_dictionary=repetitive, write_statistics=repetitive,
    )  # fmt: skip
    return sink.getvalue()
