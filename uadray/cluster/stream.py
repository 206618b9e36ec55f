"""Slides -> tiles -> scores on Ray Data: one read task a slide, an actor pool that scores, rows back to the driver.

A row is one part of one slide, so that pixels cross processes once, in blocks of megabytes. A slide's parts may come in
any order and between those of others; each carries what is needed to put them together:

    slide   int64    index into the manifest's rows
    part    int64    0 .. n_parts - 1; -1 for a slide that failed
    header  string   JSON: `n_parts`, and of this part `read_s`, `bytes` and (from the scorer) `score_s` and `errors`;
                     in part 0 the slide's metadata; for part -1 `reason`, `message`, `etag`, `node_id`, `address`
    preview binary   JPEG of the whole slide, in part 0
    masks   binary   GeoJSON of tissue and flagged regions, in part 0
    flagged binary   Arrow IPC of `TILE_SCORES`, tiles that are not read for what the thumbnail shows, in part 0
    tiles   binary   Arrow IPC of `TILES` (from the reader) or `TILE_SCORES` (from the scorer)
    pixels  binary   RGB tiles (from the reader); empty from the scorer
    errors  string   JSON list, what went wrong with each tile (from the reader); empty from the scorer
    flags   string   JSON list, what each tile's pixels show of bad quality (from the reader); empty from the scorer
    evidence binary  Arrow IPC of the part's most abnormal tiles as pictures (from the scorer)
"""

import functools
import json
import queue
import re
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from pydantic import Field

from uadray.cluster.nodes import Nodes, here
from uadray.cluster.read_tasks import Read, TaskSource, reading
from uadray.cluster.watch import DriversWatch, watched
from uadray.config import Config
from uadray.errors import SYSTEM_REASONS, InputError, reason_of
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES, TILES
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.tiles.chunks import TileChunk, chunk_tiles, normalizer_of, read_chunk, read_chunks
from uadray.tiles.plan import SlidePlan, plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tilesets.containers import TileRef, read_tiles

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


BROKEN_S = 5.0
"""For so long a scorer that cannot be built keeps a part: giving parts back at once it would be the fastest."""

STOP_S = 20.0
"""For so long a stream that is ended is given to end what runs in it."""


class StreamConfig(Config):
    """How the cluster is shared between reading and scoring.

    Attributes:
        score_workers: actors; None takes one for two of the cluster's CPUs.
        gpus: GPUs of each actor.
        threads: of an actor, each with tiles of its own; None shares the cluster's cores among the actors. Readers wait
            for storage much of the time, so the scorers may use every core.
        batch_tiles: in one forward pass; None takes 64 on a CPU, 128 on a GPU, and fewer beyond inputs of 256 px.
        no_progress_timeout_s: the job ends where nothing moves for this long (no part comes, and no reader copies,
            decodes or writes anything), instead of hanging.
    """

    score_workers: int | None = Field(default=None, ge=1)
    gpus: float = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    batch_tiles: int | None = Field(default=None, ge=1, le=4096)
    no_progress_timeout_s: int = Field(default=900, ge=1)


class StreamError(Exception):
    """A stream that has ended before its rows have: what Ray says of it, in one line."""


class WatchedScorer:
    """The actor around a scorer: it says what it works on, and reports instead of raising.

    A scorer that cannot be built (no access to the weights, a broken device) gives each part back, slowly: whoever
    started the stream hears of it and starts another without this node.
    """

    def __init__(self, scorer: type, watch: str, **arguments: Any) -> None:
        cv2.setNumThreads(1)  # cores belong to the readers, and to the scorer's own threads
        self._watch = watch
        self._scorer: Any = None
        self._broken: tuple[str, str] | None = None
        try:
            self._scorer = scorer(**arguments)
        except Exception as error:
            word, message = reason_of(error)
            self._broken = (word if word in SYSTEM_REASONS else "device", f"the detector cannot be loaded: {message}")

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of the reader -> a row of the scorer."""
        slide, part = table["slide"][0].as_py(), table["part"][0].as_py()
        if part < 0:
            return table
        if self._broken is not None:
            time.sleep(BROKEN_S)
            return failed_part(slide, *self._broken)
        with watched(self._watch, "score", slide, part) as refusal:
            return self._scorer(table) if refusal is None else failed_part(slide, "crashed", refusal)


def stream(
    reads: Sequence[Read], *, scorer: type, arguments: dict[str, Any], config: StreamConfig, nodes: Nodes,
    watch: DriversWatch,
) -> Generator[dict[str, Any] | None]:  # fmt: skip
    """Read and score; yields scored rows as they come (schema above, as dicts), and None at least every second.

    Args:
        reads: one read task each, from `slide_reads` or `tile_reads`.
        scorer: a class whose instances map a row of the reader to a row of the scorer; built once an actor with
            `arguments` and `threads`.
        arguments: for the scorer's constructor.
        config: workers and their resources.
        nodes: those that are used.
        watch: knows what is being worked on, and which slides have crashed: of such a slide no row may come.

    Raises:
        InputError: a plan in which no CPU is left for reading.
        StreamError: it broke.
    """
    workers, threads = plan_workers(config, nodes.cores(), n_nodes=nodes.count(), n_gpus=nodes.gpus())
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_options.label_selector = nodes.selector()
    context.execution_no_progress_timeout_s = -1  # the driver looks at what moves, see `uadray.waiting`
    context.target_max_block_size = BLOCK_BYTES
    # of a job that is too small for its actors Ray Data warns, and cuts the blocks of few slides into mostly empty ones
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", category=UserWarning)
    tasks = [functools.partial(_watched_read, watch.name, index, read) for index, read in enumerate(reads)]
    source = TaskSource("slides", tasks, bytes_each=BLOCK_BYTES)
    parts = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=len(reads))
    scored = parts.map_batches(
        WatchedScorer,
        fn_constructor_kwargs=arguments | {"threads": threads, "scorer": scorer, "watch": watch.name},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=SCORE_CPUS,
        num_gpus=config.gpus,
    )
    yield from _rows(scored)


def _rows(dataset: Any) -> Generator[dict[str, Any] | None]:
    """Rows of a dataset, taken by a thread: this one is never held up by Ray, and may look at other things."""
    came: queue.Queue[Any] = queue.Queue(maxsize=2)
    ended = threading.Event()

    def put(item: Any) -> None:
        while not ended.is_set():
            with suppress(queue.Full):
                came.put(item, timeout=0.2)
                return

    def take() -> None:
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                put(table)
                if ended.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)

    thread = threading.Thread(target=take, name="uadray-stream", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = came.get(timeout=1.0)
            except queue.Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise StreamError(what_was_raised(item)) from item
            yield from item.to_pylist()
    finally:
        ended.set()
        stopper = threading.Thread(target=stop_execution, args=(dataset,), name="uadray-stop", daemon=True)
        stopper.start()
        stopper.join(STOP_S)  # a cluster without its head never answers
        thread.join(1.0)


def stop_execution(dataset: Any) -> None:
    """End what a dataset has running. Ray has no public way while somebody waits for its next row."""
    executor = getattr(dataset, "_current_executor", None)
    if executor is not None:
        executor.shutdown(force=True)


_RAISED = re.compile(r"(?:[a-z_]\w*\.)*[A-Z]\w*: .+")
_ADDRESS = re.compile(r"\bip=([0-9a-fA-F.:]+)")


def what_was_raised(error: BaseException) -> str:
    r"""What an error of Ray's comes down to: the last exception of its tracebacks, and the node it came from.

    >>> what_was_raised(ValueError("ray::f() (pid=1, ip=10.0.0.3)\n  File x\nOSError: no disk\n\nTo change it"))
    'OSError: no disk (node 10.0.0.3)'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.fullmatch(line)] or lines or [type(error).__name__]
    nodes = _ADDRESS.findall(str(error))
    return raised[-1][:300] + (f" (node {nodes[-1]})" if nodes else "")


def _watched_read(watch: str | None, index: int, read: Read) -> Iterator[pa.Table]:
    """A slide's rows; what has killed its readers before is left."""
    cv2.setNumThreads(1)  # a node has as many readers as CPUs
    with watched(watch, "read", index) as refusal:
        if refusal is None:
            yield from read()
        else:
            yield failed_part(index, "crashed", refusal)


def slide_reads(rows: Sequence[SlideRow], spec: TileSpec) -> list[Read]:
    """One read task a slide."""
    return [reading(read_slide, index, row, spec) for index, row in enumerate(rows)]


def tile_chunks(refs: Sequence[TileRef], spec: TileSpec) -> list[list[TileRef]]:
    """A tile set in parts."""
    step = chunk_tiles(spec)
    return [list(refs[i : i + step]) for i in range(0, len(refs), step)]


def tile_reads(uri: str, chunks: Sequence[list[TileRef]], spec: TileSpec) -> list[Read]:
    """One read task for each part of a tile set; larger tiles are cropped to the centre `spec.tile_px`."""
    return [reading(_read_tiles, index, uri, chunk, spec) for index, chunk in enumerate(chunks)]


def _read_tiles(index: int, uri: str, refs: list[TileRef], spec: TileSpec) -> Iterator[pa.Table]:
    side = spec.tile_px
    pixels = np.full((len(refs), side, side, 3), 255, np.uint8)
    errors: list[str | None] = []
    began = time.perf_counter()
    for i, (ref, image, error) in enumerate(read_tiles(uri, refs)):
        if image is not None and min(image.shape[:2]) < side:
            error = f"{ref.tile_id}: {image.shape[1]} x {image.shape[0]} px, the bundle needs {side} px"
        elif image is not None:
            top, left = ((n - side) // 2 for n in image.shape[:2])
            pixels[i] = image[top : top + side, left : left + side]
        errors.append(error)
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
    header = {"n_parts": 1, "read_s": time.perf_counter() - began, "bytes": pixels.nbytes}
    yield part_row(
        index, 0, header=header, tiles=tiles, pixels=pixels, errors=json.dumps(errors),
        flags=json.dumps([None] * len(errors)),
    )  # fmt: skip


def plan_workers(config: StreamConfig, n_cpus: int, *, n_nodes: int = 1, n_gpus: float = 0) -> tuple[int, int]:
    """Actors and torch threads of each.

    Actors are as many as the GPUs have room for; without GPUs one for two CPUs, but one a node at least, as far as CPUs
    go: a node that is cut off then takes only its share with it.

    >>> plan_workers(StreamConfig(), 2), plan_workers(StreamConfig(), 16), plan_workers(StreamConfig(), 3, n_nodes=3)
    ((1, 2), (8, 2), (2, 1))
    >>> plan_workers(StreamConfig(gpus=1), 64, n_gpus=4)
    (4, 16)

    Raises:
        InputError: no GPU is there, or the pool would take every CPU, and wait for readers for ever.
    """
    most = max(1, int((n_cpus - READ_CPUS) / SCORE_CPUS + 1e-9))
    if config.gpus:
        fitting = int(n_gpus / config.gpus + 1e-9)
        if fitting < (config.score_workers or 1):
            raise InputError(
                f"{config.score_workers or 1} scoring actors with {config.gpus:g} GPUs each need more than the "
                f"{n_gpus:g} GPUs of this cluster; leave --gpus out to score on CPUs"
            )
        workers = config.score_workers or min(fitting, most)
    else:
        workers = config.score_workers or max(1, n_cpus // 2, min(n_nodes, n_cpus - 1))
    if workers * SCORE_CPUS + READ_CPUS > n_cpus + 1e-9 or n_cpus < 2:
        raise InputError(
            f"score_workers {workers} on {n_cpus} CPUs leaves none for reading slides; use at most {most}"
            f"{', and start Ray with at least 2 CPUs' if n_cpus < 2 else ''}"
        )
    return workers, config.threads or max(1, n_cpus // workers)


def read_slide(index: int, row: SlideRow, spec: TileSpec) -> Iterator[pa.Table]:
    """All parts of one slide; whatever goes wrong ends in one row with part -1, never in a missing slide."""
    etag: str | None = None
    try:
        etag = slide_etag(row)
        yield from _parts(index, row, spec, etag)
    except Exception as error:  # a slide must not take the job with it, nor vanish
        yield failed_part(index, *reason_of(error), etag=etag)


def failed_part(index: int, reason: str, message: str, *, etag: str | None = None) -> pa.Table:
    """The row that says that a slide failed, and on which node."""
    node_id, address = here()
    text = " ".join(message.split())[:500]
    header = {"reason": reason, "message": text, "etag": etag, "node_id": node_id, "address": address}
    return part_row(index, -1, header=header)


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


def _parts(index: int, row: SlideRow, spec: TileSpec, etag: str) -> Iterator[pa.Table]:
    began = time.perf_counter()
    with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
        plan = plan_slide(slide, etag=etag, spec=spec)
        n_parts = max(1, -(-len(plan.tiles) // chunk_tiles(spec)))
        chunks = (
            read_chunks(slide, plan.tiles, spec=spec, normalise=normalizer_of(plan.stain, spec))
            if len(plan.tiles)
            else [read_chunk(slide, plan.tiles, spec=spec)]
        )
        for part, chunk in enumerate(chunks):
            header = {"n_parts": n_parts, "read_s": time.perf_counter() - began, "bytes": chunk.pixels.nbytes}
            yield _chunk_row(index, part, header, plan, chunk)
            began = time.perf_counter()  # what the consumer took is not the reader's time


def _chunk_row(index: int, part: int, header: dict[str, Any], plan: SlidePlan, chunk: TileChunk) -> pa.Table:
    if part == 0:
        header = header | {
            "address": here()[1],
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
