"""An export from beginning to end: what is missing or out of date is made, slide by slide, by several processes.

A fault of a slide (its tiles are gone, or cannot be written in the format) is told with its name, and the others are
finished. A fault of the system, several times in a row, ends the export: running it again goes on.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from uadray.errors import InputError, WorkError
from uadray.exports.catalog import Format, Whole, format_of
from uadray.exports.exported_slide import ExportOptions
from uadray.exports.made import MadeFiles
from uadray.exports.source import Source, sources
from uadray.exports.workers import Made, mark_of, of_rows, of_scores
from uadray.storage import objects

MAX_SYSTEM_FAULTS = 3
"""So many slides in a row that fail by a fault of the system end the export."""

ROWS_AT_ONCE = 1000
"""Decisions that are read together."""

Progress = Callable[[int, int], None]


def export(
    out: str, format_name: str, options: ExportOptions | None = None, *, to: str | None = None,
    only: Collection[str] | None = None, anomalous_only: bool = False, bundle: str | None = None,
    processes: int | None = None, progress: Progress = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Export the scored slides of a screening, or of a scores.parquet.

    Args:
        out: as of `source.sources`.
        format_name: see `catalog.names`.
        options: of the format.
        to: folder or s3:// URI; `exports/<format>` in a screening's folder, or beside a scores file, unless given.
        only: ids of slides; all unless given.
        anomalous_only: leave out what is not called anomalous.
        bundle: where the bundle lies now.
        processes: at work at once; as many as there are cores, eight at the most, unless given.
        progress: told of slides done and in all.

    Returns:
        Counts of slides, where they are, and the failed ones with their reasons.

    Raises:
        InputError: nothing to export there; no such format; a slide of `only` is not among them.
        WorkError: the system failed several times in a row.
    """
    chosen = format_of(format_name)
    options = options or ExportOptions()
    options = replace(options, coordinates=options.coordinates or chosen.coordinates)
    given = sources(out, bundle=bundle)
    to = to or _beside(out, chosen)
    counts = [
        _export_source(
            source, chosen, options, objects.join(to, source.folder) if source.folder else to, only=only,
            anomalous_only=anomalous_only, processes=processes or min(8, len(os.sched_getaffinity(0))),
            progress=progress,
        )
        for source in given
    ]  # fmt: skip
    if len(counts) == 1:
        return {"format": chosen.name} | counts[0]
    return {
        "format": chosen.name,
        "to": to,
        **{name: sum(each[name] for each in counts) for name in ("slides", "made", "already_there", "without_scores")},
        "bytes": sum(each["bytes"] for each in counts),
        "failed": {slide: why for each in counts for slide, why in each["failed"].items()},
        "bundles": {source.folder: each for source, each in zip(given, counts, strict=True)},
    }


def _beside(out: str, chosen: Format) -> str:
    """Where an export lies unless it is said."""
    if out.endswith(".parquet"):
        return objects.join(objects.parent(out), f"{objects.name(out).removesuffix('.parquet')}-{chosen.name}")
    return objects.join(out, "exports", chosen.name)


def _export_source(
    source: Source, chosen: Format, options: ExportOptions, to: str, *, only: Collection[str] | None,
    anomalous_only: bool, processes: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Export the slides of one bundle."""
    if chosen.needs_threshold and options.threshold is None and source.scale is None:
        raise InputError(f"which tiles are abnormal is not known ({source.why_no_scale}); give --threshold or --bundle")
    made, tally = MadeFiles.read(to), _Tally()
    total = _chosen(source, only, anomalous_only)
    if source.decisions is None:
        results = of_scores(source, chosen, options, to, only, made)
    else:
        due = _due(_rows(source, total), source, chosen, options, made, tally)
        results = of_rows(source, due, chosen, options, to, processes)
    try:
        for result in results:
            tally.add(result)
            if result is not None and result.fault is None:
                made.record(result.slide_id, result.mark, result.files)
            progress(tally.done, max(tally.done, len(total)))
    finally:
        made.put()
    if chosen.whole is not None:
        _write_whole(chosen.whole, (row for row in _rows(source, total) if row["slide_id"] not in tally.failed), to)
    made.close()
    n_scored = 0 if source.decisions is None else source.decisions["state"].to_pylist().count("scored")
    return {
        "to": to, "slides": tally.done, "made": tally.made, "already_there": tally.already_there,
        "without_scores": len(source.decisions or ()) - n_scored, "bytes": tally.bytes, "failed": tally.failed,
    }  # fmt: skip


@dataclass
class _Tally:
    """What became of the slides so far."""

    made: int = 0
    already_there: int = 0
    bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    system_faults: int = 0

    @property
    def done(self) -> int:
        return self.made + self.already_there + len(self.failed)

    def add(self, result: Made | None) -> None:
        """Count a slide; None is one that was there already.

        Raises:
            WorkError: the system has failed several times in a row.
        """
        if result is None:
            self.already_there += 1
        elif result.fault is None:
            self.made, self.bytes, self.system_faults = self.made + 1, self.bytes + sum(result.files.values()), 0
        else:
            word, message = result.fault
            self.failed[result.slide_id] = f"{word}: {message}"
            self.system_faults = self.system_faults + 1 if result.is_systems else 0
            if self.system_faults >= MAX_SYSTEM_FAULTS:
                raise WorkError(f"{self.system_faults} slides in a row were not exported: {message}")


def _chosen(source: Source, only: Collection[str] | None, anomalous_only: bool) -> list[int]:
    """The places among the decisions of the slides to export; none of a scores.parquet, which has no decisions."""
    if source.decisions is None:
        return []
    ids, states, called = (source.decisions[name].to_pylist() for name in ("slide_id", "state", "decision"))
    if only is not None and (unknown := sorted(set(only) - set(ids))):
        raise InputError(f"{source.uri}: no slide {unknown[0]!r} was screened there ({len(unknown)} unknown ids)")
    return [
        place
        for place, slide_id in enumerate(ids)
        if states[place] == "scored"
        and (only is None or slide_id in only)
        and (not anomalous_only or called[place] == "anomalous")
    ]


def _rows(source: Source, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Some decisions, a thousand at a time: all of a large archive would not fit into memory as dictionaries."""
    for start in range(0, len(places), ROWS_AT_ONCE):
        if source.decisions is not None:
            yield from source.decisions.take(pa.array(places[start : start + ROWS_AT_ONCE], pa.int64())).to_pylist()


def _due(
    rows: Iterable[dict[str, Any]], source: Source, chosen: Format, options: ExportOptions, made: MadeFiles,
    tally: _Tally,
) -> Iterator[tuple[dict[str, Any], str]]:  # fmt: skip
    """The decisions whose files are missing or out of date, each with the mark of its files; counts the others."""
    for row in rows:
        mark = mark_of(row, source, chosen, options)
        if made.is_current(row["slide_id"], mark):
            tally.add(None)
        else:
            yield row, mark


def _write_whole(whole: Whole, rows: Iterable[Mapping[str, Any]], to: str) -> None:
    """Write what a format has of all slides together."""
    place = to if objects.is_s3(to) else str(objects.local_path(to).absolute())
    for path, data in whole(rows, place).items():
        objects.write_bytes(objects.join(to, path), data)
