"""The rows that go from the readers to the scorers and on to the driver: one row is one part of one slide.

Pixels cross processes once, in blocks of megabytes. A slide's parts may come in any order and between those of others;
each carries what is needed to put them together:

    slide   int64    index into the manifest's rows
    part    int64    0 .. n_parts - 1; -1 for a slide that failed
    header  string   JSON: `n_parts`, and of this part `read_s`, `bytes`, `focus` (a list: of its good tiles) and (from
                     the scorer) `score_s`, `tiles`, `errors` and `failures`, of each bundle null or [reason, message];
                     in part 0 the slide's metadata; for part -1 `reason`, `message`, `etag`, `node_id`, `address`,
                     and `read_s` where a reader has failed;
                     in all of them `stages` and `counts`, see `stage_seconds`
    preview binary   JPEG of the whole slide, in part 0
    masks   binary   GeoJSON of tissue and flagged regions, in part 0
    flagged binary   Arrow IPC of `TILE_SCORES`, tiles that are not read for what the thumbnail shows, in part 0
    tiles   binary   Arrow IPC of `TILES` (from the reader); empty from the scorer
    pixels  binary   RGB tiles (from the reader); empty from the scorer
    errors  string   JSON list, what went wrong with each tile (from the reader); empty from the scorer
    flags   string   JSON list, what each tile's pixels show of bad quality (from the reader); empty from the scorer
    scores  list     from the scorer, of each bundle: Arrow IPC of `TILE_SCORES`; empty where its detector failed
    evidence list    from the scorer, of each bundle: Arrow IPC of `EVIDENCE`, pictures of the most abnormal tiles
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.cluster.place import here

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
        ("scores", pa.list_(pa.binary())),
        ("evidence", pa.list_(pa.binary())),
    ]
)


def failed_part(
    index: int, reason: str, message: str, *, etag: str | None = None, read_s: float | None = None,
    measured: Mapping[str, Any] | None = None,
) -> pa.Table:  # fmt: skip
    """The row that says that a slide failed, on which node, and after how many seconds of reading.

    `measured` are `stages` and `counts`, see `stage_seconds`.
    """
    node_id, address = here()
    text = " ".join(message.split())[:500]
    header: dict[str, Any] = {"reason": reason, "message": text, "etag": etag, "node_id": node_id, "address": address}
    if read_s is not None:
        header["read_s"] = read_s
    return part_row(index, -1, header=header | dict(measured or {}))


def part_row(
    index: int, part: int, *, header: dict[str, Any], preview: bytes = b"", masks: bytes = b"", flagged: bytes = b"",
    tiles: pa.Table | None = None, pixels: bytes | npt.NDArray[np.uint8] = b"", errors: str = "", flags: str = "",
    scores: Sequence[bytes] = (), evidence: Sequence[bytes] = (),
) -> pa.Table:  # fmt: skip
    """One row of `PARTS`. It shares the memory of `pixels`, which are megabytes and not copied."""
    table = to_ipc(tiles) if tiles is not None else b""
    values = [index, part, json.dumps(header), preview, masks, flagged, table, b"", errors, flags, scores, evidence]
    row = pa.table({name: [value] for name, value in zip(PARTS.names, values, strict=True)}, schema=PARTS)
    shared = pa.py_buffer(pixels)
    ends = pa.py_buffer(np.array([0, shared.size], np.int32))
    at = PARTS.get_field_index("pixels")
    return row.set_column(at, PARTS.field(at), pa.Array.from_buffers(pa.binary(), 1, [None, ends, shared]))


def with_header(part: pa.Table, more: dict[str, Any]) -> pa.Table:
    """The same row, with more in its header."""
    header = json.loads(part["header"][0].as_py()) | more
    at = PARTS.get_field_index("header")
    return part.set_column(at, PARTS.field(at), pa.array([json.dumps(header)]))


def pixels_of(part: pa.Table) -> pa.Buffer:
    """The pixels of a row of `PARTS`, not copied: Arrow's own way to one value copies it."""
    array = part["pixels"].chunk(0)
    _, ends, data = array.buffers()
    start, stop = np.frombuffer(ends, np.int32)[array.offset : array.offset + 2].tolist()
    return data.slice(start, stop - start) if stop > start else pa.py_buffer(b"")


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
