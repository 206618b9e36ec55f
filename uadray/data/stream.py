"""Slides -> tiles -> scores on Ray Data: one read task a slide, an actor pool that scores, rows back to the driver.

A row is one part of one slide, so that pixels cross processes once, in blocks of megabytes. A slide's parts may come in
any order and between those of others; each carries what is needed to put them together:

    slide   int64    index into the manifest's rows
    part    int64    0 .. n_parts - 1; -1 for a slide that failed
    header  string   JSON: `n_parts`, and in part 0 the slide's metadata; for part -1 `reason` and `message`
    preview binary   JPEG of the whole slide, in part 0
    masks   binary   GeoJSON of tissue and flagged regions, in part 0
    flagged binary   Arrow IPC of `TILE_SCORES`, tiles that are not read for what the thumbnail shows, in part 0
    tiles   binary   Arrow IPC of `TILES` (from the reader) or `TILE_SCORES` (from the scorer)
    pixels  binary   RGB tiles (from the reader); empty from the scorer
    errors  string   JSON list, what went wrong with each tile (from the reader); empty from the scorer
    flags   string   JSON list, what each tile's pixels show of bad quality (from the reader); empty from the scorer
    evidence binary  Arrow IPC of the part's most abnormal tiles as pictures (from the scorer)
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from pydantic import Field

from uadray import storage
from uadray.config import Config
from uadray.data.cluster import cores
from uadray.data.datasource import Read, TaskSource, reading
from uadray.data.reading import (
    SlidePlan,
    TileChunk,
    chunk_tiles,
    normalizer_of,
    plan_slide,
    read_chunk,
    read_chunks,
    slide_etag,
)
from uadray.data.tilesets import TileRef, read_tiles
from uadray.errors import InputError, SlideError
from uadray.evidence import encode_jpeg
from uadray.manifest import SlideRow
from uadray.monitoring import metrics
from uadray.schemas import TILE_SCORES, TILES
from uadray.slides.reader import open_slide
from uadray.tiling import TileSpec

PARTS = pa.schema(
    [
        ("slide", pa.int64()),
        ("part", pa.int64()),
        ("header", pa.string()),
        ("preview", pa.binary()),
        ("masks", pa.binary()),
        ("flagged", pa.binary()),
        ("tiles", pa.binary()),
        ("pixels", pa.binary()),
        ("errors", pa.string()),
        ("flags", pa.string()),
        ("evidence", pa.binary()),
    ]
)

BLOCK_BYTES = 2**20
"""What Ray Data would like a block to have. A row here is a part and mostly larger, and then a block of its own:
joined, parts would only be taken apart again."""

READ_CPUS = 0.9
"""CPUs of a read task. Not what the scorer asks for: stages that ask for the same would be fused."""

SCORE_CPUS = 0.1
"""CPUs that a scoring actor holds as long as it lives; what it uses comes and goes with its parts. If it held a whole
one, the CPUs of a cluster that has lost nodes, or that two drivers share, could all be held by actors, and readers
would wait for ever; and beside actors that wait for a GPU only half of the cluster would read."""


class StreamConfig(Config):
    """How the cluster is shared between reading and scoring.

    Attributes:
        score_workers: actors; None takes one for two of the cluster's CPUs.
        gpus: GPUs of each actor.
        threads: of an actor, each with tiles of its own; None shares the cluster's cores among the actors. Readers wait
            for storage much of the time, so the scorers may use every core.
        no_progress_timeout_s: the job fails where nothing moves for this long, instead of hanging.
    """

    score_workers: int | None = Field(default=None, ge=1)
    gpus: float = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    no_progress_timeout_s: int = Field(default=900, ge=1)


def stream(
    reads: Sequence[Read], *, scorer: type, arguments: dict[str, Any], config: StreamConfig
) -> Iterator[dict[str, Any]]:
    """Read and score; yields scored rows as they come (schema above, as dicts).

    Args:
        reads: one read task each, from `slide_reads` or `tile_reads`.
        scorer: a class whose instances map a row of the reader to a row of the scorer; built once an actor with
            `arguments` and `threads`.
        arguments: for the scorer's constructor.
        config: workers and their resources.

    Raises:
        InputError: a plan in which no CPU is left for reading.
    """
    workers, threads = plan_workers(config, cores())
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = config.no_progress_timeout_s
    context.target_max_block_size = BLOCK_BYTES
    # of a job that is too small for its actors Ray Data warns, and cuts the blocks of few slides into mostly empty ones
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", category=UserWarning)
    source = TaskSource("slides", reads, bytes_each=BLOCK_BYTES)
    parts = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=len(reads))
    scored = parts.map_batches(
        scorer,
        fn_constructor_kwargs=arguments | {"threads": threads},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=SCORE_CPUS,
        num_gpus=config.gpus,
    )
    for table in scored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        yield from table.to_pylist()


def slide_reads(rows: Sequence[SlideRow], spec: TileSpec) -> list[Read]:
    """One read task a slide."""
    return [reading(read_slide, index, row, spec) for index, row in enumerate(rows)]


def tile_reads(uri: str, refs: Sequence[TileRef], spec: TileSpec) -> list[Read]:
    """One read task for each chunk of a tile set; larger tiles are cropped to the centre `spec.tile_px`."""
    step = chunk_tiles(spec)
    chunks = [list(refs[i : i + step]) for i in range(0, len(refs), step)]
    return [reading(_read_tiles, index, uri, chunk, spec) for index, chunk in enumerate(chunks)]


def _read_tiles(index: int, uri: str, refs: list[TileRef], spec: TileSpec) -> Iterator[pa.Table]:
    side = spec.tile_px
    pixels = np.full((len(refs), side, side, 3), 255, np.uint8)
    errors: list[str | None] = []
    with metrics.stage("screen_read") as meter:
        for i, (ref, image, error) in enumerate(read_tiles(uri, refs)):
            if image is not None and min(image.shape[:2]) < side:
                error = f"{ref.tile_id}: {image.shape[1]} x {image.shape[0]} px, the bundle needs {side} px"
            elif image is not None:
                top, left = ((n - side) // 2 for n in image.shape[:2])
                pixels[i] = image[top : top + side, left : left + side]
            errors.append(error)
        meter.add(tiles=len(refs), bytes_=pixels.nbytes, errors=sum(e is not None for e in errors))
    zeros, sides = [0] * len(refs), [side] * len(refs)
    columns = [
        [r.tile_id for r in refs],
        [""] * len(refs),
        zeros,
        zeros,
        sides,
        sides,
        [1.0] * len(refs),
        ["tissue"] * len(refs),
    ]
    tiles = pa.table(dict(zip(TILES.names, columns, strict=True)), schema=TILES)
    yield part_row(
        index, 0, header={"n_parts": 1}, tiles=tiles, pixels=pixels, errors=json.dumps(errors),
        flags=json.dumps([None] * len(errors)),
    )  # fmt: skip


def plan_workers(config: StreamConfig, n_cpus: int) -> tuple[int, int]:
    """Actors and torch threads of each.

    >>> plan_workers(StreamConfig(), 2), plan_workers(StreamConfig(), 16)
    ((1, 2), (8, 2))

    Raises:
        InputError: the pool would take every CPU, and wait for readers for ever.
    """
    workers = config.score_workers or max(1, n_cpus // 2)
    if workers + READ_CPUS > n_cpus:
        raise InputError(
            f"score_workers {workers} on {n_cpus} CPUs leaves none for reading slides; use at most {max(1, n_cpus - 1)}"
            f"{', and start Ray with at least 2 CPUs' if n_cpus < 2 else ''}"
        )
    return workers, config.threads or max(1, n_cpus // workers)


def read_slide(index: int, row: SlideRow, spec: TileSpec) -> Iterator[pa.Table]:
    """All parts of one slide; whatever goes wrong ends in one row with part -1, never in a missing slide."""
    with metrics.stage("screen_read") as meter:
        try:
            yield from _parts(index, row, spec, meter)
        except SlideError as error:
            meter.add(errors=1)
            yield failed_part(index, error.reason, error.message)
        except storage.ChangedError as error:
            meter.add(errors=1)
            yield failed_part(index, "changed", str(error))
        except storage.FullError as error:
            meter.add(errors=1)
            yield failed_part(index, "disk_full", str(error))
        except Exception as error:  # a slide must not take the job with it, nor vanish
            meter.add(errors=1)
            yield failed_part(index, "unreadable", f"{type(error).__name__}: {error}")


def failed_part(index: int, reason: str, message: str) -> pa.Table:
    """The row that says that a slide failed."""
    return part_row(index, -1, header={"reason": reason, "message": " ".join(message.split())[:500]})


def part_row(
    index: int, part: int, *, header: dict[str, Any], preview: bytes = b"", masks: bytes = b"", flagged: bytes = b"",
    tiles: pa.Table | None = None, pixels: bytes | npt.NDArray[np.uint8] = b"", errors: str = "", flags: str = "",
    evidence: bytes = b"",
) -> pa.Table:  # fmt: skip
    """One row of `PARTS`. It shares the memory of `pixels`: those are megabytes, and to be left as they are."""
    table = to_ipc(tiles) if tiles is not None else b""
    values = [index, part, json.dumps(header), preview, masks, flagged, table, b"", errors, flags, evidence]
    row = pa.table({name: [value] for name, value in zip(PARTS.names, values, strict=True)}, schema=PARTS)
    shared = pa.py_buffer(pixels)
    ends = pa.py_buffer(np.array([0, shared.size], np.int32))
    at = PARTS.get_field_index("pixels")
    return row.set_column(at, PARTS.field(at), pa.Array.from_buffers(pa.binary(), 1, [None, ends, shared]))


def pixels_of(part: pa.Table) -> pa.Buffer:
    """The pixels of a row of `PARTS`, where they are: Arrow's own way to one value copies it."""
    array = part["pixels"].chunk(0)
    _, ends, data = array.buffers()
    start, stop = np.frombuffer(ends, np.int32)[array.offset : array.offset + 2].tolist()
    return data.slice(start, stop - start) if stop > start else pa.py_buffer(b"")


def _parts(index: int, row: SlideRow, spec: TileSpec, meter: metrics.Meter) -> Iterator[pa.Table]:
    etag = slide_etag(row)
    with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
        plan = plan_slide(slide, etag=etag, spec=spec)
        n_parts = max(1, -(-len(plan.tiles) // chunk_tiles(spec)))
        chunks = (
            read_chunks(slide, plan.tiles, spec=spec, normalise=normalizer_of(plan.stain, spec))
            if len(plan.tiles)
            else [read_chunk(slide, plan.tiles, spec=spec)]
        )
        for part, chunk in enumerate(chunks):
            meter.add(
                tiles=len(chunk.errors), bytes_=chunk.pixels.nbytes, errors=sum(e is not None for e in chunk.errors)
            )
            yield _chunk_row(index, part, n_parts, plan, chunk)


def _chunk_row(index: int, part: int, n_parts: int, plan: SlidePlan, chunk: TileChunk) -> pa.Table:
    header: dict[str, Any] = {"n_parts": n_parts}
    if part == 0:
        header |= {
            "etag": plan.etag,
            "mpp_level0": plan.mpp_level0,
            "size_level0_px": plan.size_level0_px,
            "n_tiles": len(plan.tiles),
            "n_grid": plan.n_grid,
        }
    first: dict[str, bytes] = {}
    if part == 0:
        first = {"preview": encode_jpeg(plan.preview), "masks": plan.masks, "flagged": to_ipc(_flagged(plan))}
    return part_row(
        index, part, header=header, tiles=chunk.tiles, pixels=chunk.pixels, errors=json.dumps(chunk.errors),
        flags=json.dumps(chunk.flags), **first,
    )  # fmt: skip


def _flagged(plan: SlidePlan) -> pa.Table:
    """The tiles that are not read, as rows of `TILE_SCORES` without a score."""
    n = len(plan.flagged)
    columns = {name: plan.flagged[name] for name in TILES.names} | {
        "score": pa.nulls(n, pa.float64()),
        "mean_saturation": pa.nulls(n, pa.float32()),
        "mean_green": pa.nulls(n, pa.float32()),
        "flag": pa.array(plan.flags, pa.string()),
        "error": pa.array([flag_error(flag) for flag in plan.flags], pa.string()),
    }
    return pa.table(columns, schema=TILE_SCORES)


def flag_error(flag: str) -> str:
    """What the error of a flagged tile says."""
    return f"not scored: {flag}"


def to_ipc(table: pa.Table) -> bytes:
    """A table as Arrow IPC bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> pa.Table:
    """The inverse of `to_ipc`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
