"""Slides -> files: each is read, converted and put, by threads of this process or by others."""

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any

from uadray.errors import SYSTEM_REASONS, InputError, WorkError, reason_of
from uadray.exports.catalog import Format, format_of
from uadray.exports.exported_slide import ExportedSlide, ExportOptions
from uadray.exports.made import MadeFiles
from uadray.exports.source import Source
from uadray.provenance import fingerprint
from uadray.slides.manifest_checks import why_unusable
from uadray.storage import objects

SLIDES_A_TASK = 8
"""A process is given so many slides at once."""

WORTH_A_PROCESS = 64
"""Fewer slides than these are exported by threads of this process: another takes a second to start."""


@dataclass(frozen=True)
class Made:
    """What became of one slide.

    Attributes:
        slide_id: of the slide.
        mark: what its files were made of, see `mark_of`.
        files: their sizes.
        fault: why there are none, as `errors.reason_of` says it.
        is_systems: the fault is the system's, and may be that of the next slide too.
    """

    slide_id: str
    mark: str
    files: Mapping[str, int] = field(default_factory=dict)
    fault: tuple[str, str] | None = None
    is_systems: bool = False


def mark_of(row: Mapping[str, Any], source: Source, chosen: Format, options: ExportOptions) -> str:
    """Names what a slide's files are made of: decision, tiles, calibration, format and options."""
    facts = [
        chosen.name,
        chosen.version,
        asdict(options),
        dict(row),
        source.name,
        repr(source.scale),
        repr(source.spec),
    ]
    return fingerprint([json.dumps(facts, sort_keys=True, default=str)])


def of_scores(
    source: Source, chosen: Format, options: ExportOptions, to: str, only: Collection[str] | None, made: MadeFiles
) -> Iterator[Made | None]:  # fmt: skip
    """Export the slides of a scores.parquet, in its order; None for one that is there."""
    for slide in source.slides(only):
        mark = mark_of(slide.decision, source, chosen, options)
        if made.is_current(slide.slide_id, mark):
            yield None
        else:
            yield _made(slide.slide_id, mark, partial(_same, slide), chosen, options, to)


def of_rows(
    source: Source, rows: Iterator[tuple[dict[str, Any], str]], chosen: Format, options: ExportOptions, to: str,
    processes: int,
) -> Iterator[Made]:  # fmt: skip
    """Export slides, by threads or by processes; as they become ready, a few ahead of what is taken.

    Args:
        source: of the slides.
        rows: decisions, each with the mark of its files.
        chosen: the format.
        options: what is asked for.
        to: the folder.
        processes: how many at once.

    Raises:
        WorkError: a process was ended.
    """
    light, first = replace(source, decisions=None), list(islice(rows, WORTH_A_PROCESS))
    rows = chain(first, rows)
    with ExitStack() as stack:
        pool: Executor
        if processes > 1 and len(first) == WORTH_A_PROCESS:
            context = multiprocessing.get_context("spawn")  # a fork may inherit a lock that another thread holds
            pool, size, ahead = ProcessPoolExecutor(processes, context), SLIDES_A_TASK, 2 * processes
        else:
            pool, size, ahead = ThreadPoolExecutor(max(2, processes)), 1, 2 * max(2, processes)
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        waiting: deque[Future[list[Made]]] = deque()
        try:
            while task := list(islice(rows, size)):
                waiting.append(pool.submit(_export_rows, light, task, chosen.name, options, to))
                if len(waiting) >= ahead:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkError("a process of the export was ended; is there enough memory? Run it again") from error


def _export_rows(
    source: Source, rows: Sequence[tuple[dict[str, Any], str]], format_name: str, options: ExportOptions, to: str
) -> list[Made]:  # fmt: skip
    """Export some slides, in a thread or a process of the pool."""
    chosen = format_of(format_name)
    return [_made(str(row["slide_id"]), mark, partial(source.slide, row), chosen, options, to) for row, mark in rows]


def _same(slide: ExportedSlide) -> ExportedSlide:
    return slide


def _made(
    slide_id: str, mark: str, read: Callable[[], ExportedSlide], chosen: Format, options: ExportOptions, to: str
) -> Made:  # fmt: skip
    """Read, convert and put one slide."""
    if (why := why_unusable(slide_id)) is not None:  # it would name a file somewhere else
        return Made(slide_id, mark, fault=("bad_id", f"a slide id like this would {why}"))
    try:
        written = chosen.exported(read(), options)
    except Exception as error:  # a fault of one slide must not end the export, nor go untold
        word, message = ("not_in_format", str(error)) if type(error) is InputError else reason_of(error)
        return Made(slide_id, mark, fault=(word, message), is_systems=word in SYSTEM_REASONS)
    files = {chosen.suffix: written} if isinstance(written, bytes) else written
    sizes = {}
    try:
        for ending, data in reversed(files.items()):
            path = f"{chosen.folder}/{slide_id}{ending}" if chosen.folder else f"{slide_id}{ending}"
            objects.write_bytes(objects.join(to, path), data)
            sizes[path] = len(data)
    except Exception as error:  # whatever keeps a file from its place is no fault of the slide
        return Made(slide_id, mark, fault=reason_of(error), is_systems=True)
    return Made(slide_id, mark, sizes)
