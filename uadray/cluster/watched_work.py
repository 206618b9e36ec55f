"""What readers and scorers do, told to the driver's watch as they begin and end it.

What a row holds is the caller's. Here a row has the columns `slide` and `part`, and a row whose part is negative needs
no scoring (see `screening.parts`). Rows are large, and each is a block of its own; the small ones of a group of slides
are joined.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import pyarrow as pa

from uadray.cluster.place import here
from uadray.cluster.read_tasks import ReadTask
from uadray.cluster.watch_actor import watched, watched_together
from uadray.errors import SYSTEM_REASONS, reason_of

BLOCK_BYTES = 2**20
"""Rows of a task are joined until they have so many bytes. A row is mostly larger, and then is a block by itself."""

BROKEN_S = 5.0
"""How long a scorer that cannot be built keeps a row. If it gave rows back at once, it would be the fastest scorer and
get most of them."""

ScoreTable = Callable[[pa.Table], pa.Table]
"""Maps a row of the reader to a row of the scorer."""

FailedRow = Callable[[int, str, str], pa.Table]
"""Makes the row that says why a slide's work failed: index of the slide, reason, message."""


class WatchedScorer:
    """The actor around a scorer: it tells the watch what it works on, and a fault becomes a row instead of an error.

    A scorer that cannot be built (no access to the weights, a broken device) gives each row back as failed: whoever
    started the stream learns of it and starts another without this node.

    Args:
        scorer: makes what scores.
        watch: name of the watch's actor.
        failed_row: makes the row of a slide that failed.
        arguments: of the scorer's constructor.
    """

    def __init__(self, scorer: Callable[..., ScoreTable], watch: str, failed_row: FailedRow, **arguments: Any) -> None:
        cv2.setNumThreads(1)  # the cores are for the readers and for the scorer's own threads
        self._watch, self._failed_row = watch, failed_row
        self._scorer: Any = None
        self._broken: tuple[str, str] | None = None
        try:
            self._scorer = scorer(**arguments)
        except Exception as error:
            word, message = reason_of(error)
            self._broken = (word if word in SYSTEM_REASONS else "device", f"the detector cannot be loaded: {message}")

    def node_id(self) -> str:
        """Ray's id of the node that it runs on."""
        return here()[0]

    def score(self, table: pa.Table) -> pa.Table:
        """Rows of the reader -> rows of the scorer, in their order."""
        if len(table) == 1:
            return self._scored(table, self._watch)
        works = list(zip(*(table[name].to_pylist() for name in ("slide", "part")), strict=True))
        with watched_together(self._watch, "score", [work for work in works if work[1] >= 0]) as is_together:
            watch = None if is_together else self._watch
            return pa.concat_tables([self._scored(table.slice(place, 1), watch) for place in range(len(table))])

    def _scored(self, table: pa.Table, watch: str | None) -> pa.Table:
        slide, part = table["slide"][0].as_py(), table["part"][0].as_py()
        if part < 0:
            return table
        if self._broken is not None:
            time.sleep(BROKEN_S)
            return self._failed_row(slide, *self._broken)
        with watched(watch, "score", slide, part) as refusal:
            return self._scorer(table) if refusal is None else self._failed_row(slide, "crashed", refusal)


def watched_reads(
    watch: str | None, tasks: Sequence[tuple[int, ReadTask]], failed_row: FailedRow
) -> Iterator[pa.Table]:
    """The rows of slides, one slide after the other, in blocks."""
    block: list[pa.Table] = []
    n_bytes = 0
    with watched_together(watch if len(tasks) > 1 else None, "read", [(index, 0) for index, _ in tasks]) as is_together:
        for index, task in tasks:
            alone = watch if len(tasks) == 1 or not is_together else None
            for table in _watched_read(alone, index, task, failed_row):
                block.append(table)
                n_bytes += table.nbytes
                del table  # its pixels are not needed while the next are read
                if n_bytes >= BLOCK_BYTES:
                    yield _joined(block)
                    n_bytes = 0
    if block:
        yield _joined(block)


def _joined(block: list[pa.Table]) -> pa.Table:
    """The rows of a block, which is emptied: what a generator keeps stays in memory until it goes on."""
    table = block[0] if len(block) == 1 else pa.concat_tables(block)
    block.clear()
    return table


def _watched_read(watch: str | None, index: int, task: ReadTask, failed_row: FailedRow) -> Iterator[pa.Table]:
    """A slide's rows, or its failed row where the slide has killed its readers before."""
    cv2.setNumThreads(1)  # a node has as many readers as CPUs
    with watched(watch, "read", index) as refusal:
        if refusal is None:
            yield from task()
        else:
            yield failed_row(index, "crashed", refusal)
