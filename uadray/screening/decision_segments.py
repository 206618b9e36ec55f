"""All decisions of a screening, in few requests: segments hold what many `decisions/<slide_id>.json` say.

    segments/<random>.parquet   rows of `SLIDE_DECISIONS` and the etag of the JSON each was read from

A segment is a cache and never the truth: a row counts only while the JSON that is listed has its etag. So segments may
be written twice, overlap, be lost or be old, and a decision that is made anew needs no care. JSONs that are in no
segment are read one by one.
"""

import hashlib
import io
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import NotFoundError
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.leases import REQUESTS, read_version
from uadray.storage import objects

SEGMENT_ROWS = 1000
"""Decisions of a new segment at least, while a screening runs: one page of a listing."""

SEGMENT_SHARE = 0.1
"""And this share of all decisions: each segment costs a listing of all."""

_SEGMENT = pa.schema([*SLIDE_DECISIONS, pa.field("decision_etag", pa.string(), nullable=False)])


@dataclass(frozen=True)
class Decided:
    """What is decided in a folder.

    Attributes:
        table: rows of `SLIDE_DECISIONS` and `decision_etag`, one a slide, in no order.
        segments: those that were read.
        loose: rows that were in none of them.
    """

    table: pa.Table
    segments: tuple[str, ...]
    loose: int


def list_decisions(out: str) -> dict[str, objects.ObjectInfo]:
    """The decisions' JSONs by slide id: one request a thousand."""
    found = objects.list_objects(objects.join(out, "decisions"), suffixes=(".json",))
    return {objects.name(info.uri).removesuffix(".json"): info for info in found}


def read_decisions(out: str) -> Decided:
    """Read them all: a listing, the segments, and one by one what is in no segment."""
    listed = list_decisions(out)
    names = [info.uri for info in objects.list_objects(objects.join(out, "segments"), suffixes=(".parquet",))]
    with ThreadPoolExecutor(REQUESTS) as pool:
        stored = _current(pa.concat_tables([_SEGMENT.empty_table(), *pool.map(_read_segment, names)]), listed)
    known = set(stored["slide_id"].to_pylist())
    loose = _read_loose([info for slide_id, info in listed.items() if slide_id not in known])
    return Decided(pa.concat_tables([stored, loose]), tuple(names), len(loose))


def compact(out: str, written: Mapping[str, bytes]) -> int:
    """Store decisions that were just written (slide id -> JSON) as a segment; returns how many there are in all.

    In most S3 the etag is the MD5 of the content: what was written is then known to be what is there. Elsewhere it is
    read back, in the version that was listed.
    """
    listed = list_decisions(out)
    present = [listed[slide_id] for slide_id in written if slide_id in listed]
    same = {info.uri: written[_slide_id(info)] for info in present if _md5(written[_slide_id(info)]) == info.etag}
    rows = [json.loads(same[info.uri]) | {"decision_etag": info.etag} for info in present if info.uri in same]
    table = pa.Table.from_pylist(rows, schema=_SEGMENT)
    write_segment(out, pa.concat_tables([table, _read_loose([info for info in present if info.uri not in same])]))
    return len(listed)


def write_segment(out: str, table: pa.Table, *, instead_of: Iterable[str] = ()) -> None:
    """Store rows under a new name, then delete the segments that they replace."""
    if len(table):
        sink = io.BytesIO()
        pq.write_table(table.cast(_SEGMENT), sink, compression="zstd")
        objects.write_bytes(objects.join(out, "segments", f"{secrets.token_hex(8)}.parquet"), sink.getvalue())
    for old in instead_of:
        objects.delete(old)


def tidy(out: str, decided: Decided, *, whole: bool) -> None:
    """Store what was read one by one, where it is worth a segment; `whole` makes one segment of all."""
    if whole and (decided.loose or len(decided.segments) > 1):
        write_segment(out, decided.table, instead_of=decided.segments)
    elif decided.loose >= SEGMENT_ROWS // 10:
        write_segment(out, decided.table.slice(len(decided.table) - decided.loose))


def _current(table: pa.Table, listed: Mapping[str, objects.ObjectInfo]) -> pa.Table:
    """The first row of each slide that tells of the JSON as it is now."""
    places: dict[str, int] = {}
    pairs = zip(table["slide_id"].to_pylist(), table["decision_etag"].to_pylist(), strict=True)
    for place, (slide_id, etag) in enumerate(pairs):
        if slide_id in listed and listed[slide_id].etag == etag:
            places.setdefault(slide_id, place)
    return table.take(pa.array(places.values(), pa.int64()))


def _read_segment(uri: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(objects.read_bytes(uri)))
        return table.select(_SEGMENT.names).cast(_SEGMENT)
    except (NotFoundError, KeyError, ValueError):  # merged meanwhile, or of another version: the JSONs remain
        return _SEGMENT.empty_table()


def _read_loose(infos: Sequence[objects.ObjectInfo]) -> pa.Table:
    with ThreadPoolExecutor(REQUESTS) as pool:
        rows = [row for row in pool.map(_read_one, infos) if row is not None]
    return pa.Table.from_pylist(rows, schema=_SEGMENT)


def _read_one(info: objects.ObjectInfo) -> dict[str, Any] | None:
    """One decision as it is now; None where it is gone."""
    while True:
        data = read_version(info)
        if data is not None:
            return dict(json.loads(data)) | {"decision_etag": info.etag}
        try:
            info = objects.stat(info.uri)
        except NotFoundError:
            return None


def _slide_id(info: objects.ObjectInfo) -> str:
    return objects.name(info.uri).removesuffix(".json")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
