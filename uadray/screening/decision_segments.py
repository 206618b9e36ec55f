"""All decisions of a screening, in few requests: segments hold what many `decisions/<slide_id>.json` say.

    segments/<random>.parquet   rows of `SLIDE_DECISIONS`, one a slide and bundle, with the etag of its JSON

A segment is a cache and never the truth: a row counts only while the JSON that is listed has its etag. So segments may
be written twice, overlap, be lost or be old, and a decision that is made anew needs no care. JSONs that are in no
segment are read one by one.
"""

import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.decisions.slide_measures import MEASURES
from uadray.errors import NotFoundError
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.leases import REQUESTS, decision_uri, read_version
from uadray.screening.slide_outputs import decisions_of, parquet
from uadray.storage import objects

SEGMENT_ROWS = 1000
"""A new segment has so many slides at least, while a screening runs: one page of a listing."""

WORTH_A_SEGMENT = SEGMENT_ROWS // 10
"""Fewer decisions than these are read one by one."""

SEGMENT_SHARE = 0.1
"""And this share of all slides: writing one costs a listing of all."""

_SEGMENT = pa.schema(
    [*SLIDE_DECISIONS, pa.field("decision_etag", pa.string(), nullable=False), pa.field("bundle", pa.string())]
)
"""`bundle` is the folder of the bundle that decides, null of the only one of a screening; then it is not stored."""

_MAY_LACK = (
    "bundle", "pictures", "site", "scanner", "stain", "decided_at", *MEASURES, "read_seconds", "score_seconds",
    "patient", "calibration_group", "calibration_group_slides", "false_alarm_low", "false_alarm_high", "p_smoothed",
    "calibration_holds", "q_value", "bounds_x_level0_px", "bounds_y_level0_px", "bounds_width_level0_px",
    "bounds_height_level0_px",
)  # fmt: skip
"""Columns that are not stored, or not known to the version that wrote a segment."""


@dataclass(frozen=True)
class Decided:
    """What is decided in a folder.

    Attributes:
        table: rows of `SLIDE_DECISIONS`, `decision_etag` and `bundle`, one a slide and bundle, in no order.
        segments: those that were read.
        unsegmented: rows at the end of the table that were in none of them.
    """

    table: pa.Table
    segments: tuple[str, ...]
    unsegmented: int


@dataclass(frozen=True)
class Known:
    """What is known of a slide that is decided.

    Attributes:
        etag: of its decision.
        fingerprint: of the screening and the version of the slide.
        mask: etag of the edited mask that was used.
        has_failed: one bundle's decision at least is `failed`.
        is_judged: one bundle's decision at least is not.
    """

    etag: str
    fingerprint: str
    mask: str | None
    has_failed: bool
    is_judged: bool


def list_decisions(out: str) -> dict[str, objects.ObjectInfo]:
    """The decisions' JSONs by slide id: one request a thousand."""
    infos = objects.list_many(objects.join(out, "decisions"), suffixes=(".json",))
    return {objects.name(info.uri).removesuffix(".json"): info for info in infos}


def read_decisions(out: str, *, known: pa.Table | None = None, leave_out: Collection[str] = ()) -> Decided:
    """Read them all: a listing, the segments, and one by one what is in no segment.

    Args:
        out: the folder.
        known: the table of an earlier reading. What is listed as it was then is taken from it, and segments are read
            only where so much is new that they are worth it.
        leave_out: columns that are empty in what is returned: of a large archive some take most of the memory.
    """
    listed = list_decisions(out)
    if known is not None:
        known = _current(known, listed)
        if len(listed) - len(set(known["slide_id"].to_pylist())) < WORTH_A_SEGMENT:
            return _with_unsegmented(known, (), listed, leave_out)
    names = [info.uri for info in objects.list_many(objects.join(out, "segments"), suffixes=(".parquet",))]
    first = [_SEGMENT.empty_table()] if known is None else [known]
    with ThreadPoolExecutor(REQUESTS) as pool:
        read = pool.map(lambda name: _read_segment(name, leave_out), names)
        stored = _current(pa.concat_tables([*first, *read]), listed)
    return _with_unsegmented(stored, tuple(names), listed, leave_out)


def _with_unsegmented(
    stored: pa.Table, names: tuple[str, ...], listed: Mapping[str, objects.ObjectInfo], leave_out: Collection[str]
) -> Decided:  # fmt: skip
    """What is known from segments, and what is read one by one."""
    known = set(stored["slide_id"].to_pylist())
    unsegmented = _read_jsons([info for slide_id, info in listed.items() if slide_id not in known])
    if leave_out:
        unsegmented = _completed(unsegmented.drop_columns(list(leave_out)))
    return Decided(pa.concat_tables([stored, unsegmented]), names, len(unsegmented))


def known_slides(table: pa.Table) -> dict[str, Known]:
    """What is known of each slide, by its id, from the rows of all bundles."""
    slides = defaultdict[str, list[dict[str, Any]]](list)
    for row in table.select(["slide_id", "state", "fingerprint", "mask", "decision_etag"]).to_pylist():
        slides[row["slide_id"]].append(row)
    return {
        slide_id: Known(
            etag=rows[0]["decision_etag"],
            fingerprint=rows[0]["fingerprint"],
            mask=rows[0]["mask"],
            has_failed=any(row["state"] == "failed" for row in rows),
            is_judged=any(row["state"] != "failed" for row in rows),
        )
        for slide_id, rows in slides.items()
    }


def of_bundle(table: pa.Table, bundle: str, slide_ids: Sequence[str]) -> pa.Table:
    """One bundle's rows of `SLIDE_DECISIONS` for these slides, in their order; `bundle` is its folder."""
    pairs = zip(table["slide_id"].to_pylist(), table["bundle"].to_pylist(), strict=True)
    places = {slide_id: place for place, (slide_id, name) in enumerate(pairs) if (name or "") == bundle}
    order = pa.array([places[slide_id] for slide_id in slide_ids], pa.int64())
    return table.select(SLIDE_DECISIONS.names).take(order).cast(SLIDE_DECISIONS)


def compact(out: str, written: Mapping[str, bytes]) -> int:
    """Store decisions that were just written (slide id -> JSON) as a segment; returns how many were listed for that.

    In most S3 the etag is the MD5 of the content, and nothing needs to be listed: where another process has put another
    decision meanwhile, its etag is another. Elsewhere what is there is listed, and read back in that version.
    """
    if _has_md5_for_etag(out, written):
        rows = [row for data in written.values() for row in _rows(data, _md5(data))]
        write_segment(out, pa.Table.from_pylist(rows, schema=_SEGMENT))
        return 0
    listed = list_decisions(out)
    write_segment(out, _read_jsons([listed[slide_id] for slide_id in written if slide_id in listed]))
    return len(listed)


def _has_md5_for_etag(out: str, written: Mapping[str, bytes]) -> bool:
    """Whether the etag of one of these decisions is the MD5 of what was written."""
    for slide_id, data in written.items():
        with suppress(NotFoundError):
            return objects.stat(decision_uri(out, slide_id)).etag == _md5(data)
    return False


def write_segment(out: str, table: pa.Table, *, instead_of: Iterable[str] = ()) -> None:
    """Store rows under a new name, then delete the segments that they replace."""
    if len(table):
        rows = table.cast(_SEGMENT)
        if rows["bundle"].null_count == len(rows):
            rows = rows.drop_columns(["bundle"])
        objects.write_bytes(objects.join(out, "segments", f"{secrets.token_hex(8)}.parquet"), parquet(rows))
    objects.delete_all(instead_of)


def tidy(out: str, decided: Decided, *, whole: bool) -> None:
    """Store what was read one by one, where it is worth a segment; `whole` makes one segment of all."""
    if whole and (decided.unsegmented or len(decided.segments) > 1):
        write_segment(out, decided.table, instead_of=decided.segments)
    elif decided.unsegmented >= WORTH_A_SEGMENT:
        write_segment(out, decided.table.slice(len(decided.table) - decided.unsegmented))


def _current(table: pa.Table, listed: Mapping[str, objects.ObjectInfo]) -> pa.Table:
    """The first row of each slide and bundle that tells of the JSON as it is now."""
    places: dict[tuple[str, str | None], int] = {}
    columns = (table[name].to_pylist() for name in ("slide_id", "bundle", "decision_etag"))
    for place, (slide_id, bundle, etag) in enumerate(zip(*columns, strict=True)):
        if slide_id in listed and listed[slide_id].etag == etag:
            places.setdefault((slide_id, bundle), place)
    return table.take(pa.array(places.values(), pa.int64()))


def _read_segment(uri: str, leave_out: Collection[str] = ()) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(objects.read_bytes(uri)))
        there = set(file.schema_arrow.names)
        if not there.issuperset(set(_SEGMENT.names) - set(_MAY_LACK)):
            return _SEGMENT.empty_table()
        return _completed(file.read([name for name in _SEGMENT.names if name in there and name not in leave_out]))
    except (NotFoundError, KeyError, ValueError):  # merged meanwhile, or of another version: the JSONs remain
        return _SEGMENT.empty_table()


def _completed(table: pa.Table) -> pa.Table:
    """The table with all columns of a segment; those that it lacks are empty."""
    columns = {}
    for field in _SEGMENT:
        if field.name in table.column_names:
            columns[field.name] = table[field.name]
        elif field.nullable:
            columns[field.name] = pa.nulls(len(table), field.type)
        else:
            columns[field.name] = pa.array([""] * len(table), field.type)
    return pa.table(columns).cast(_SEGMENT)


def _read_jsons(infos: Sequence[objects.ObjectInfo]) -> pa.Table:
    with ThreadPoolExecutor(REQUESTS) as pool:
        rows = [row for rows in pool.map(_read_one, infos) for row in rows]
    return pa.Table.from_pylist(rows, schema=_SEGMENT)


def _read_one(info: objects.ObjectInfo) -> list[dict[str, Any]]:
    """The rows of one decision as it is now; none where it is gone."""
    while True:
        data = read_version(info)
        if data is not None:
            return _rows(data, info.etag)
        try:
            info = objects.stat(info.uri)
        except NotFoundError:
            return []


def _rows(data: bytes, etag: str) -> list[dict[str, Any]]:
    """The rows of one decision's JSON."""
    return [decision | {"decision_etag": etag} for decision in decisions_of(json.loads(data))]


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
