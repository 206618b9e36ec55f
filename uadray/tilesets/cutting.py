"""`uadray tile`: tiles cut once and kept as Parquet shards, slide by slide, resumable.

A slide is one task. Its shards are written whole, then `slides/<slide_id>.json` commits them: a run that is killed and
started again skips what is committed for the same options and the same version of the slide. Two runs at once do some
work twice and write the same. `tileset.json` opens the set for readers when every slide has been tried; it names the
shards that belong to it. Those of a slide's earlier version have other names, and are left alone.

Where a grid tile is exactly one JPEG tile of the file, its bytes are kept: no generation is lost, nothing is encoded.
All others have the pixels that screening reads.
"""

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from pydantic import ValidationError

from uadray import metrics
from uadray.cluster.attempts import Attempts, Outcome
from uadray.cluster.nodes import Nodes, here
from uadray.cluster.tasks import Crashed, in_parallel
from uadray.errors import SYSTEM_REASONS, InputError, SlideError, reason_of
from uadray.provenance import fingerprint
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.slides.tiff.slide import TiffSlide
from uadray.slides.tile_reading import TilePlaces, read_place, tile_places
from uadray.storage import objects
from uadray.tiles.plan import mask_uri, normalizer_of, plan_slide, read_chunks, slide_etag
from uadray.tiles.quality import pixel_flags
from uadray.tiles.sampling import draw
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Normalizer
from uadray.tilesets.containers import decoded
from uadray.tilesets.shards import GROUP_TILES, TILE_IMAGES, TILESET, SlideTiles, TileSet, parse_tile_set

SHARD_BYTES = 64 * 2**20
"""Encoded tiles of a shard, more or less: what a task holds in memory, and what one write has to repeat."""

REQUESTS = 32
"""Small requests in flight while a run is resumed."""

Progress = Callable[[int, int, int], None]
"""Called with slides done, slides in all, tiles written in this run."""

Encoded = tuple[int, bytes, bool]
"""Row of the tile, its JPEG, and whether that is the slide's own."""


def tile_set(
    rows: Sequence[SlideRow], spec: TileSpec, out: str, *, tiles_per_slide: int | None = None, seed: int = 0,
    quality: int = 90, progress: Progress | None = None, nodes: Nodes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Cut the tiles of all slides into `out`; what is finished there already stays as it is.

    Args:
        rows: the slides.
        spec: how tiles are cut.
        out: URI of a folder.
        tiles_per_slide: random tiles of each slide; None for all.
        seed: of the random choice.
        quality: of JPEG (4:4:4), where a tile's bytes cannot be the slide's own.
        progress: told of every slide.
        nodes: that are used.

    Returns:
        Counts: `slides`, `finished`, `failed`, `tiles`, `kept` (bytes of the slide), `unreadable` and `flagged` (both
        left out, see `TileSpec.quality`), `bytes`, `slides_now` and `tiles_now` (of this run), and `failures` by
        slide id. Exit status 1 where `failed` is not 0.

    Raises:
        InputError: `out` holds another tile set.
        WorkError: the system fails at slide after slide; what was cut stays cut.
    """
    options: dict[str, int | None] = {"tiles_per_slide": tiles_per_slide, "seed": seed, "quality": quality}
    _claim(out, spec, options)
    done, pending = _resumed(rows, spec, options, out)
    n_before, tiles_now = len(done), 0
    failed: dict[str, str] = {}
    for row, found in _settled(list(pending), spec, options, out, nodes or Nodes()):
        if isinstance(found, SlideTiles):
            done[row.slide_id] = found
            tiles_now += found.n_tiles
        else:
            failed[row.slide_id] = found
        if progress is not None:
            progress(len(done) + len(failed), len(rows), tiles_now)
    slides = [done[row.slide_id] for row in rows if row.slide_id in done]
    whole = fingerprint([_options_print(spec, options), *(s.slide_id + ":" + s.fingerprint for s in slides)])
    made = TileSet(spec=spec, options=options, fingerprint=whole, finished=True, slides=slides, failed=failed)
    objects.write_bytes(objects.join(out, TILESET), made.model_dump_json(indent=1).encode())
    return {
        "out": out,
        "slides": len(rows),
        "finished": len(slides),
        "failed": len(failed),
        "tiles": made.n_tiles,
        "kept": sum(s.kept for s in slides),
        "unreadable": sum(s.unreadable for s in slides),
        "flagged": sum(s.flagged for s in slides),
        "bytes": sum(s.bytes for s in slides),
        "slides_now": len(rows) - n_before,
        "tiles_now": tiles_now,
        "failures": failed,
    }


def _claim(out: str, spec: TileSpec, options: dict[str, int | None]) -> None:
    """A folder holds one tile set: that of these options."""
    mine = TileSet(spec=spec, options=options, fingerprint=_options_print(spec, options), finished=False)
    if objects.put_if_absent(objects.join(out, TILESET), mine.model_dump_json(indent=1).encode()):
        return
    theirs = parse_tile_set(out)
    if _options_print(theirs.spec, theirs.options) != _options_print(spec, options):
        before, now = (t.spec.model_dump() | t.options for t in (theirs, mine))
        changed = ", ".join(f"{k} {before[k]} there, {now[k]} here" for k in now if before.get(k) != now[k])
        raise InputError(f"{out} holds a tile set with other options ({changed}); use another --out")


def _options_print(spec: TileSpec, options: dict[str, int | None]) -> str:
    return fingerprint([spec.model_dump_json(), json.dumps(options, sort_keys=True), str(GROUP_TILES)])


def _slide_print(row: SlideRow, spec: TileSpec, options: dict[str, int | None], etag: str) -> str:
    """Of the options, the version of the slide, and that of its edited mask."""
    mask = mask_uri(row.slide_id, spec)
    edited = objects.stat(mask).etag if mask and objects.exists(mask) else ""
    return fingerprint([_options_print(spec, options), etag, edited])


def _resumed(
    rows: Sequence[SlideRow], spec: TileSpec, options: dict[str, int | None], out: str
) -> tuple[dict[str, SlideTiles], list[SlideRow]]:
    """Slides that are committed as they are now, and the others."""
    folder = objects.join(out, "slides")
    names = {objects.name(info.uri) for info in objects.list_objects(folder, suffixes=(".json",))}
    there = [row for row in rows if f"{row.slide_id}.json" in names]
    with ThreadPoolExecutor(REQUESTS) as pool:
        found = list(pool.map(lambda row: _committed(row, spec, options, out), there))
    done = {row.slide_id: slide for row, slide in zip(there, found, strict=True) if slide is not None}
    return done, [row for row in rows if row.slide_id not in done]


def _committed(row: SlideRow, spec: TileSpec, options: dict[str, int | None], out: str) -> SlideTiles | None:
    try:
        found = SlideTiles.model_validate_json(objects.read_bytes(_record_uri(out, row.slide_id)))
        etag = slide_etag(row)
    except ValidationError:
        return None
    except SlideError:
        return found  # what was cut stays cut
    return found if found.fingerprint == _slide_print(row, spec, options, etag) and found.label == row.label else None


def _record_uri(out: str, slide_id: str) -> str:
    return objects.join(out, "slides", f"{slide_id}.json")


@dataclass(frozen=True)
class _Fault:
    """Why a slide was not cut, and on which node."""

    reason: str
    message: str
    node_id: str
    address: str


def _settled(
    rows: list[SlideRow], spec: TileSpec, options: dict[str, int | None], out: str, nodes: Nodes
) -> Iterator[tuple[SlideRow, SlideTiles | str]]:
    """Each slide's tiles, or why there are none; what the system fails at is tried again (`cluster.attempts`)."""
    attempts = Attempts(nodes)
    metrics.start_run(fingerprint([out, str(time.time())])[:8], ("tile",))
    todo = rows
    while todo:
        again: list[SlideRow] = []
        for row, found in in_parallel(_cut, todo, spec, options, out, nodes=nodes):
            if isinstance(found, Crashed):
                attempts.ended()
                yield row, f"crashed: {found.message}"
            elif isinstance(found, _Fault):
                outcome = _outcome(row, found, attempts)
                if outcome.again:
                    again.append(row)
                else:
                    metrics.Meter("tile").add(errors=1)
                    yield row, ": ".join(outcome.failure)
            else:
                tiles, seconds = found
                attempts.worked(row)
                metrics.Meter("tile").add(
                    tiles=tiles.n_tiles, bytes_=tiles.bytes, errors=tiles.unreadable, seconds=seconds
                )
                yield row, tiles
        todo = again


def _outcome(row: SlideRow, fault: _Fault, attempts: Attempts) -> Outcome:
    if fault.reason in SYSTEM_REASONS:
        return attempts.failed(row, fault.reason, fault.message, node_id=fault.node_id, address=fault.address)
    attempts.ended()
    return Outcome(again=False, failure=(fault.reason, fault.message), is_verdict=True)


def _cut(row: SlideRow, spec: TileSpec, options: dict[str, int | None], out: str) -> tuple[SlideTiles, float] | _Fault:
    """Cut one slide, and how many seconds it took; whatever goes wrong is an answer."""
    began = time.perf_counter()
    try:
        return cut_slide(row, spec, options, out), time.perf_counter() - began
    except Exception as error:  # a slide must not take the job with it
        reason, message = reason_of(error)
        return _Fault(reason, " ".join(message.split())[:500], *here())


def cut_slide(row: SlideRow, spec: TileSpec, options: dict[str, int | None], out: str) -> SlideTiles:
    """Write a slide's shards and commit them.

    Raises:
        SlideError: it cannot be read.
    """
    etag = slide_etag(row)
    version = _slide_print(row, spec, options, etag)
    shards: list[str] = []
    rows: list[int] = []
    kept = n_bytes = 0
    left_out: Counter[str] = Counter()
    seed, quality = options["seed"] or 0, options["quality"] or 90
    with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
        tiles, normalise = chosen_tiles(slide, etag, spec, per_slide=options["tiles_per_slide"], seed=seed)
        encoded = encoded_tiles(slide, tiles, spec, quality=quality, normalise=normalise, left_out=left_out)
        for part in _by_bytes(encoded):
            name = f"part-{row.slide_id}-{version[:8]}-{len(shards)}.parquet"
            rng = np.random.default_rng([seed, _number(row.slide_id), len(shards)])
            mixed = [
                part[i] for i in rng.permutation(len(part))
            ]  # a row group is a sample of the slide, no patch of it
            data = _shard(mixed, tiles, spec, row.label, quality)
            objects.write_bytes(objects.join(out, name), data)
            shards.append(name)
            rows.append(len(part))
            kept += sum(own for *_, own in part)
            n_bytes += len(data)
    found = SlideTiles(
        slide_id=row.slide_id, fingerprint=version, etag=etag, label=row.label,
        shards=shards, rows=rows, kept=kept, unreadable=left_out["unreadable"], flagged=left_out["flagged"],
        bytes=n_bytes,
    )  # fmt: skip
    objects.write_bytes(_record_uri(out, row.slide_id), found.model_dump_json(indent=1).encode())
    return found


def chosen_tiles(
    slide: Slide, etag: str, spec: TileSpec, *, per_slide: int | None, seed: int
) -> tuple[pa.Table, Normalizer | None]:
    """A slide's tiles with enough good tissue, or so many at random, in reading order; and what their colours need."""
    plan = plan_slide(slide, etag=etag, spec=spec)
    tiles = plan.tiles.take(draw(len(plan.tiles), per_slide or len(plan.tiles), (seed, _number(slide.slide_id))))
    return tiles, normalizer_of(plan.stain, spec)


def _number(slide_id: str) -> int:
    return int.from_bytes(hashlib.sha256(slide_id.encode()).digest()[:8], "big")


def encoded_tiles(
    slide: Slide, tiles: pa.Table, spec: TileSpec, *, quality: int, normalise: Normalizer | None,
    left_out: Counter[str],
) -> Iterator[Encoded]:  # fmt: skip
    """Tiles as JPEG; those that are `unreadable` or `flagged` are left out, and counted.

    Raises:
        SlideError: it is not one tile that cannot be read, see `read_chunks`.
    """
    if isinstance(slide, TiffSlide) and len(tiles) and normalise is None and _is_file_grid(slide, tiles, spec):
        yield from _file_tiles(slide, tiles, spec, quality, left_out)
        return
    start = 0
    for chunk in read_chunks(slide, tiles, spec=spec, normalise=normalise):
        for i, (error, flag) in enumerate(zip(chunk.errors, chunk.flags, strict=True)):
            if error is None and flag is None:
                yield start + i, encode(chunk.pixels[i], quality), False
            else:
                left_out["flagged" if error is None else "unreadable"] += 1
        start += len(chunk.errors)


def _is_file_grid(slide: TiffSlide, tiles: pa.Table, spec: TileSpec) -> bool:
    """Whether tiles are as large as the file's and of the same scale: then some may be the file's own."""
    where = places(slide, tiles, spec)
    return all(round(step, 9) == 1 for step in where.steps) and slide.tile_sizes_px[where.level] == (
        spec.tile_px,
        spec.tile_px,
    )


def _file_tiles(
    slide: TiffSlide, tiles: pa.Table, spec: TileSpec, quality: int, left_out: Counter[str]
) -> Iterator[Encoded]:
    """The file's bytes where a tile is one of its tiles and any decoder has the slide's pixels from them."""
    where = places(slide, tiles, spec)
    slide.will_read(where.level, where.boxes)
    for i, box in enumerate(where.boxes.tolist()):
        pixels = np.empty((spec.tile_px, spec.tile_px, 3), np.uint8)
        try:
            data = slide.encoded_tile(where.level, *box) if where.exact[i] else None
            read_place(slide, where, i, pixels)
        except SlideError as error:
            if error.reason != "unreadable":
                raise
            left_out["unreadable"] += 1
            continue
        if spec.quality is not None and pixel_flags(pixels[None], spec.mpp, spec.quality)[0]:
            left_out["flagged"] += 1
        elif data is not None and np.array_equal(decoded(data), pixels):  # type: ignore[arg-type]
            yield i, data, True
        else:
            yield i, encode(pixels, quality), False


def places(slide: Slide, tiles: pa.Table, spec: TileSpec) -> TilePlaces:
    """Where tiles of schema `TILES` lie in the file."""
    corners = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    return tile_places(slide, *corners, mpp=spec.mpp, tile_px=spec.tile_px)


def encode(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    """RGB [h, w, 3] as JPEG 4:4:4."""
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="444")
    )


def _by_bytes(tiles: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    """Runs of tiles of about `SHARD_BYTES`."""
    part: list[Encoded] = []
    size = 0
    for tile in tiles:
        part.append(tile)
        size += len(tile[1])
        if size >= SHARD_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _shard(part: list[Encoded], tiles: pa.Table, spec: TileSpec, label: str | None, quality: int) -> bytes:
    """One shard as the bytes of a Parquet file."""
    columns = {name: tiles.take([row for row, *_ in part])[name] for name in tiles.column_names}
    n = len(part)
    columns |= {
        "mpp": pa.array([spec.mpp] * n, pa.float64()),
        "label": pa.array([label] * n, pa.string()),
        "image": pa.array([data for _, data, _ in part], pa.binary()),
        "format": pa.array(["jpeg" if own else f"jpeg 4:4:4 q{quality}" for *_, own in part], pa.string()),
    }
    dense = {name: "none" if name == "image" else "zstd" for name in TILE_IMAGES.names}
    plain = [name for name in TILE_IMAGES.names if name not in ("image", "tile_id")]
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=TILE_IMAGES), sink, row_group_size=GROUP_TILES, compression=dense,
        use_dictionary=plain, write_statistics=plain,
    )  # fmt: skip
    return sink.getvalue()
