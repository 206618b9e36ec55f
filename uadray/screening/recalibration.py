r"""A screening's folder is decided anew by other calibrations, slide by slide, without scoring.

    nobody screens here? --no--> refused
      |yes
    recalibrated/<old calibration>/decisions.parquet written: what stood until now
    recalibrated/<new calibration>/calibration.json written
    run.json replaced (If-Match): the new fingerprint, and `recalibrating`
      |                        '--a process has begun meanwhile--> put back, refused
    every decisions/<slide_id>.json that is not of the new fingerprint: replaced (If-Match)
    files for people written
    run.json replaced: `recalibrating` is gone

As long as `recalibrating` stands there `uadray screen` refuses the folder, and the same command goes on: a decision is
of the new fingerprint or of an older one, and those of older ones are left to do. Whoever screens looks at `run.json`
once more when its heartbeat is there (`run_record.check_unchanged`), and this process looks for heartbeats once more
when `run.json` is replaced: one of them sees the other. This process has a heartbeat too, so that two of its kind do
not meet. A process that stood still all the while and commits a slide in its old name does no harm: the decision names
another fingerprint, and the next screening does that slide again.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import InputError, WorkError
from uadray.provenance import now_iso
from uadray.screening import decision_segments, kept_calibrations
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.decision_segments import Decided
from uadray.screening.heartbeats import LEASE_S, ScreeningProcess
from uadray.screening.leases import REQUESTS, decision_uri, read_with_etag
from uadray.screening.redecided import Change, is_redecided, redecided
from uadray.screening.run_record import RUN, screening_fingerprint
from uadray.screening.slide_outputs import parquet
from uadray.screening.summary import DECISIONS, SUMMARY, write_summaries
from uadray.storage import objects

BATCH = 1000
"""Slides that are decided before a segment is written."""

TRIES = 5
"""So many times a slide is decided whose decision changes meanwhile."""


@contextmanager
def alone_in(out: str, *, lease_s: float = LEASE_S) -> Iterator[ScreeningProcess]:
    """Be the only process at work in a screening's folder. Waits until one that was killed elsewhere is known to be.

    Raises:
        InputError: another process is at work there.
    """
    with ScreeningProcess(out, lease_s=lease_s) as process:
        check_alone(process)
        yield process


def check_alone(process: ScreeningProcess) -> None:
    """Raise where another process of the folder lives: its heartbeat changes, or has not stood still for long enough.

    Raises:
        InputError: one does.
    """
    seen: dict[str, str] | None = None
    while process.look() != {process.id}:
        others = process.others()
        beats = {name: etag for name, (etag, _) in others.items()}
        if any(is_here for _, is_here in others.values()) or not beats.items() <= (seen or beats).items():
            raise InputError(
                f"{process.out} is being screened, or decided anew, by another process; wait until it ends or stop it"
            )
        seen = beats
        process.pause()


def redecide(
    out: str, bundles: Sequence[ScreeningBundle], *, process: ScreeningProcess, same_scores: frozenset[str],
    more: Mapping[str, Any], own: Mapping[str, str], tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Decide all slides of a folder by other calibrations, or go on with that.

    Args:
        out: the screening's folder.
        bundles: with the calibrations that decide from now on, and their folders.
        process: this one, see `alone_in`.
        same_scores: see `Change`.
        more: what else `run.json` is to say; None takes it away.
        own: bundle id -> id of the calibration that lies in the bundle.
        tick: told of slides done, and of all.

    Returns:
        What `write_summaries` returns, and `redecided`, how many slides were decided anew by this call.
    """
    uri = objects.join(out, RUN)
    bundles = tuple(replace(each, calibration=kept_calibrations.keep(out, each.calibration)) for each in bundles)
    decided = decision_segments.read_decisions(out)
    etag, record = _record(uri)
    begun = _begun(record, bundles, own) | {key: value for key, value in more.items() if value is not None}
    for key, value in more.items():
        if value is None:
            begun.pop(key, None)
    if not record.get("recalibrating"):
        _keep_decisions(out, record, decided)
    _replace(uri, begun, etag)
    try:
        check_alone(process)
    except InputError:
        _replace(uri, record, objects.stat(uri).etag)
        raise
    change = Change(out, bundles, begun["fingerprint"], tuple(begun["recalibrating"]["from"]), same_scores)
    n_redecided = _redecide_all(change, decided, tick)
    summary = _summarised(change, begun)
    ended = {key: value for key, value in begun.items() if key != "recalibrating"}
    _replace(uri, ended, objects.stat(uri).etag)
    return summary | {"redecided": n_redecided}


def _begun(record: Mapping[str, Any], bundles: Sequence[ScreeningBundle], own: Mapping[str, str]) -> dict[str, Any]:
    """What `run.json` says while slides are decided anew."""
    older = dict.fromkeys([record["fingerprint"], *(record.get("recalibrating") or {}).get("from", [])])
    begun = dict(record) | {"fingerprint": screening_fingerprint(bundles)}
    there = calibrations_of(record)
    if "bundles" in record:
        ids = {each.bundle.id: each.calibration.id for each in bundles}
        begun["bundles"] = [each | {"calibration": ids[each["id"]]} for each in record["bundles"]]
    else:
        begun["calibration_id"] = bundles[0].calibration.id
    begun["calibrations"] = {
        each.bundle.id: kept_calibrations.renamed(
            record, each.bundle.id, now=each.calibration.id, there=there[each.bundle.id], own=own[each.bundle.id]
        )
        for each in bundles
    }
    older.pop(begun["fingerprint"], None)
    return begun | {"recalibrating": {"from": list(older), "since": now_iso()}}


def calibrations_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Bundle id -> id of the calibration that decides, as `run.json` says."""
    if "bundles" in record:
        return {str(each["id"]): str(each["calibration"]) for each in record["bundles"]}
    return {str(record["bundle_id"]): str(record["calibration_id"])}


def _record(uri: str) -> tuple[str, dict[str, Any]]:
    etag_and_record = read_with_etag(uri)
    if etag_and_record is None:
        raise InputError(f"{uri}: there is no screening")
    return etag_and_record


def _replace(uri: str, record: Mapping[str, Any], etag: str) -> None:
    if not objects.replace_if_match(uri, json.dumps(record, indent=1).encode(), etag):
        raise WorkError(f"{uri} has changed meanwhile; run the same command again")


def _keep_decisions(out: str, record: Mapping[str, Any], decided: Decided) -> None:
    """Keep what stands now, of each bundle beside its calibration."""
    folders = {str(each["id"]): str(each["folder"]) for each in record.get("bundles", [])}
    for bundle_id, calibration_id in calibrations_of(record).items():
        folder = folders.get(bundle_id, "")
        table = decision_segments.of_bundle(decided.table, folder, _order(out, folder, decided.table))
        objects.write_bytes(kept_calibrations.kept_uri(out, calibration_id, DECISIONS), parquet(table))


def _order(out: str, folder: str, table: pa.Table) -> list[str]:
    """The slides in the order of the files for people that are there; others behind them."""
    known = dict.fromkeys(sorted(set(table["slide_id"].to_pylist())))
    uri = objects.join(out, folder, DECISIONS) if folder else objects.join(out, DECISIONS)
    ordered: list[str] = []
    if objects.exists(uri):
        ordered = pq.read_table(pa.BufferReader(objects.read_bytes(uri)), columns=["slide_id"])["slide_id"].to_pylist()
    return list(dict.fromkeys([*(slide_id for slide_id in ordered if slide_id in known), *known]))


def _redecide_all(change: Change, decided: Decided, tick: Callable[[int, int], None]) -> int:
    """Decide all slides that are not of the new fingerprint; returns how many these were."""
    facts = decided.table.select(["slide_id", "fingerprint", "mpp_level0", "etag", "mask"]).to_pylist()
    by_slide = {fact["slide_id"]: fact for fact in facts}
    todo = sorted(slide_id for slide_id, fact in by_slide.items() if not is_redecided(change, fact))
    tick(len(by_slide) - len(todo), len(by_slide))
    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="uadray-redecide") as pool:
        n_done = len(by_slide) - len(todo)
        for batch in (todo[first : first + BATCH] for first in range(0, len(todo), BATCH)):
            records = dict(zip(batch, pool.map(lambda slide_id: _redecide(change, slide_id), batch), strict=True))
            decision_segments.compact(change.out, {name: data for name, data in records.items() if data is not None})
            n_done += len(batch)
            tick(n_done, len(by_slide))
    return len(todo)


def _redecide(change: Change, slide_id: str) -> bytes | None:
    """Decide one slide anew; returns what its decision says, None where it is gone."""
    uri = decision_uri(change.out, slide_id)
    for _ in range(TRIES):
        etag_and_record = read_with_etag(uri)
        if etag_and_record is None:
            return None
        etag, record = etag_and_record
        data = json.dumps(redecided(change, record) | {"recalibrated_at": now_iso()}, indent=1).encode()
        if objects.replace_if_match(uri, data, etag):
            return data
    raise WorkError(f"slide {slide_id}: its decision changes again and again; is another process at work?")


def _summarised(change: Change, record: dict[str, Any]) -> dict[str, Any]:
    """Write the files for people, of all that is decided."""
    decided = decision_segments.read_decisions(change.out)
    decision_segments.tidy(change.out, decided, whole=True)
    order = _order(change.out, change.bundles[0].folder, decided.table)
    tables = [decision_segments.of_bundle(decided.table, each.folder, order) for each in change.bundles]
    n_slides = max(len(order), _slides_of_the_manifest(change.out))
    return write_summaries(change.out, change.bundles, tables, n_slides=n_slides, provenance=record)


def _slides_of_the_manifest(out: str) -> int:
    """How many slides the last summary counted; 0 where there is none."""
    uri = objects.join(out, SUMMARY)
    return int(json.loads(objects.read_bytes(uri)).get("slides", 0)) if objects.exists(uri) else 0
