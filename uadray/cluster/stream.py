"""Read, score and hand to the driver, on Ray Core: a read task for each slide, and a pool of scoring actors.

    read task (READ_CPUS) --> row --> scoring actor (SCORE_CPUS) --> row --> driver

What a row holds is the caller's. Here a row has the columns `slide` and `part`, and a row whose part is negative needs
no scoring (see `screening.parts`). Readers and scorers tell the driver's watch what they begin and end.

What is on the way is bounded by the CPUs, whatever the archive is: a reader waits with each row until the driver takes
it, the driver takes it when an actor has room (`scorer_pool.AT_ONCE`), and of the tasks that have not begun only some
are Ray's at a time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import cv2
import pyarrow as pa
import ray

from uadray.cluster.nodes import Nodes
from uadray.cluster.place import here
from uadray.cluster.read_tasks import ReadTask, patient
from uadray.cluster.rows import rows_of
from uadray.cluster.scorer_pool import ScorerPool, scorer_pool
from uadray.cluster.watch_actor import DriversWatch, watched
from uadray.cluster.workers import READ_CPUS, SCORE_CPUS, StreamConfig, plan_workers
from uadray.errors import SYSTEM_REASONS, reason_of

NOT_BEGUN = 2
"""So many tasks for each of the cluster's CPUs are with Ray and have not begun: enough that no reader waits for the
next, and that an autoscaler sees what there is to do."""

WAIT_S, AGAIN_S = 0.5, 0.02
"""How long to wait for something to come, and to look again for what has come and is not on this node yet."""

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
        """A row of the reader -> a row of the scorer."""
        slide, part = table["slide"][0].as_py(), table["part"][0].as_py()
        if part < 0:
            return table
        if self._broken is not None:
            time.sleep(BROKEN_S)
            return self._failed_row(slide, *self._broken)
        with watched(self._watch, "score", slide, part) as refusal:
            return self._scorer(table) if refusal is None else self._failed_row(slide, "crashed", refusal)


def stream(
    tasks: Sequence[ReadTask], *, scorer: Callable[..., ScoreTable], arguments: dict[str, Any], failed_row: FailedRow,
    config: StreamConfig, nodes: Nodes, watch: DriversWatch,
) -> Generator[dict[str, Any] | None]:  # fmt: skip
    """Read and score; yields scored rows as dicts, as they come, and None after every second without one.

    Args:
        tasks: the read tasks, each yielding tables of one row.
        scorer: makes what maps a row of the reader to a row of the scorer; each actor calls it, with `arguments` and
            `threads`.
        arguments: for the scorer's constructor.
        failed_row: makes the row of a slide that cannot be read or scored.
        config: workers and their resources.
        nodes: those that are used.
        watch: knows what is being worked on, and which slides have crashed: of such a slide no row may come.

    Raises:
        InputError: a plan in which no CPU is left for reading.
        StreamError: Ray ended it, or a reader or scorer raised what it should not.
    """
    workers, threads = plan_workers(config, nodes.cores(), n_nodes=nodes.count(), n_gpus=nodes.gpus())
    arguments = arguments | {"threads": threads, "scorer": scorer, "watch": watch.name, "failed_row": failed_row}
    selector = {"label_selector": chosen} if (chosen := nodes.selector()) else {}
    not_begun = NOT_BEGUN * nodes.cores()

    def tables(ended: threading.Event) -> Iterator[pa.Table]:
        pool = scorer_pool(WatchedScorer, arguments, n=workers, num_cpus=SCORE_CPUS, num_gpus=config.gpus, **selector)
        readers = _Readers(patient(tasks), watch.name, failed_row, not_begun=not_begun, options=selector)
        with closing(pool), closing(readers):
            yield from _scored(readers, pool, ended)

    yield from rows_of(tables)


class _Readers:
    """The read tasks of a stream: those that Ray has, and those that wait for their turn."""

    def __init__(
        self, tasks: Sequence[ReadTask], watch: str, failed_row: FailedRow, *, not_begun: int, options: dict[str, Any]
    ) -> None:
        self._read = ray.remote(
            num_cpus=READ_CPUS, max_retries=-1, scheduling_strategy="SPREAD", num_returns="streaming", name="Read",
            _generator_backpressure_num_objects=1, **options,
        )(_watched_read)  # fmt: skip
        self._waiting = deque(enumerate(tasks))
        self._watch, self._failed_row, self._most_not_begun = watch, failed_row, not_begun
        self.running: dict[Any, bool] = {}  # by Ray's generator: whether it has begun

    def fill(self) -> None:
        """Give Ray tasks until enough of them have not begun."""
        n = self._most_not_begun - sum(not begun for begun in self.running.values())
        for _ in range(min(n, len(self._waiting))):
            index, task = self._waiting.popleft()
            self.running[self._read.remote(self._watch, index, task, self._failed_row)] = False

    def next_of(self, generator: Any) -> Any:
        """Ray's reference of the row that a generator has ready; None where it has ended."""
        self.running[generator] = True
        reference = next(generator, None)
        if reference is None:
            del self.running[generator]
        return reference

    def close(self) -> None:
        """End the tasks."""
        self._waiting.clear()
        for generator in self.running:
            with suppress(Exception):  # it may have gone with its cluster
                ray.cancel(generator, force=True)


def _scored(readers: _Readers, pool: ScorerPool, ended: threading.Event) -> Iterator[pa.Table]:
    """The scored tables as they come; rows go from the readers to the pool meanwhile."""
    readers.fill()
    while (readers.running or pool.scoring) and not ended.is_set():
        scored = _there(pool.scoring, fetch=True)
        pool.started(_there(pool.starting))
        for reference in scored:
            yield pool.scored(reference)
        read = _there(readers.running) if pool.has_room() else []
        for generator in read:
            if not pool.has_room():
                break
            part = readers.next_of(generator)
            if part is not None:
                pool.score(part)
        readers.fill()
        if not scored and not read:
            waited_for = [*pool.scoring, *pool.starting, *(readers.running if pool.has_room() else ())]
            ready, _ = ray.wait(waited_for, timeout=WAIT_S, fetch_local=False)
            if ready and ready[0] in pool.scoring:  # scored, and perhaps on its way here
                ray.wait(ready, timeout=AGAIN_S)


def _there(waited_for: dict[Any, Any], *, fetch: bool = False) -> list[Any]:
    """Those of Ray's references and generators that need not be waited for; with `fetch`, that are on this node."""
    if not waited_for:
        return []
    ready, _ = ray.wait([*waited_for], num_returns=len(waited_for), timeout=0, fetch_local=fetch)
    return list(ready)


def _watched_read(watch: str | None, index: int, task: ReadTask, failed_row: FailedRow) -> Iterator[pa.Table]:
    """A slide's rows, or its failed row where the slide has killed its readers before."""
    cv2.setNumThreads(1)  # a node has as many readers as CPUs
    with watched(watch, "read", index) as refusal:
        if refusal is None:
            yield from task()
        else:
            yield failed_row(index, "crashed", refusal)
