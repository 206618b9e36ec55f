"""Read, score and hand to the driver, on Ray Core: read tasks of a slide or a group, and a pool of scoring actors.

    read task (READ_CPUS) --> block --> scoring actor (SCORE_CPUS) --> block --> driver

A block has the rows of a read task, see `watched_work`. What is on the way is bounded by the CPUs, whatever the archive
is: a reader waits with each block until the driver takes it, the driver takes it when an actor has room
(`scorer_pool.AT_ONCE`), and of the tasks that have not begun only some are Ray's at a time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import pyarrow as pa
import ray

from uadray import metrics
from uadray.cluster.nodes import Nodes
from uadray.cluster.read_tasks import ReadTask, patient
from uadray.cluster.rows import rows_of
from uadray.cluster.scorer_pool import ScorerPool, scorer_pool
from uadray.cluster.watch_actor import DriversWatch
from uadray.cluster.watched_work import FailedRow, ScoreTable, WatchedScorer, watched_reads
from uadray.cluster.workers import READ_CPUS, SCORE_CPUS, StreamConfig, plan_workers

NOT_BEGUN = 2
"""So many tasks for each of the cluster's CPUs are with Ray and have not begun: enough that no reader waits for the
next, and that an autoscaler sees what there is to do."""

LOOK_S = 0.5
"""How often queues are looked at."""

WAIT_S, AGAIN_S = 0.5, 0.02
"""How long to wait for something to come, and to look again for what has come and is not on this node yet."""


def stream(
    tasks: Sequence[ReadTask], *, scorer: Callable[..., ScoreTable], arguments: dict[str, Any], failed_row: FailedRow,
    config: StreamConfig, nodes: Nodes, watch: DriversWatch, groups: Sequence[Sequence[int]] | None = None,
    n_later: int = 0,
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
        groups: places of `tasks` that are run one after the other in one task of Ray's; each by itself unless given.
        n_later: tasks that wait for a stream after this one.

    Raises:
        InputError: a plan in which no CPU is left for reading.
        StreamError: Ray ended it, or a reader or scorer raised what it should not.
    """
    workers, threads = plan_workers(config, nodes.cores(), n_nodes=nodes.count(), n_gpus=nodes.gpus())
    arguments = arguments | {"threads": threads, "scorer": scorer, "watch": watch.name, "failed_row": failed_row}
    selector = {"label_selector": chosen} if (chosen := nodes.selector()) else {}
    not_begun = NOT_BEGUN * nodes.cores()
    numbered = list(enumerate(patient(tasks)))
    grouped = [[numbered[place] for place in group] for group in groups or [[place] for place, _ in numbered]]

    def tables(ended: threading.Event) -> Iterator[pa.Table]:
        pool = scorer_pool(WatchedScorer, arguments, n=workers, num_cpus=SCORE_CPUS, num_gpus=config.gpus, **selector)
        readers = _Readers(grouped, watch.name, failed_row, not_begun=not_begun, options=selector)
        with closing(pool), closing(readers), closing(_StreamMeter(n_later)) as meter:
            yield from _scored(readers, pool, ended, meter)

    yield from rows_of(tables)


class _Readers:
    """The read tasks of a stream: those that Ray has, and those that wait for their turn."""

    def __init__(
        self, groups: Sequence[Sequence[tuple[int, ReadTask]]], watch: str, failed_row: FailedRow, *, not_begun: int,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._read = ray.remote(
            num_cpus=READ_CPUS, max_retries=-1, scheduling_strategy="SPREAD", num_returns="streaming", name="Read",
            _generator_backpressure_num_objects=1, **options,
        )(watched_reads)  # fmt: skip
        self._waiting = deque(groups)
        self._watch, self._failed_row, self._most_not_begun = watch, failed_row, not_begun
        self.running: dict[Any, bool] = {}  # by Ray's generator: whether it has begun
        self._sizes: dict[Any, int] = {}

    def counts(self) -> tuple[int, int]:
        """Tasks that have not begun, and tasks that have; those of groups are counted one by one."""
        not_begun = sum(len(group) for group in self._waiting)
        not_begun += sum(n for generator, n in self._sizes.items() if not self.running[generator])
        return not_begun, sum(n for generator, n in self._sizes.items() if self.running[generator])

    def fill(self) -> None:
        """Give Ray tasks until enough of them have not begun."""
        n = self._most_not_begun - sum(not begun for begun in self.running.values())
        for _ in range(min(n, len(self._waiting))):
            group = self._waiting.popleft()
            generator = self._read.remote(self._watch, group, self._failed_row)
            self.running[generator], self._sizes[generator] = False, len(group)

    def next_of(self, generator: Any) -> Any:
        """Ray's reference of the block that a generator has ready; None where it has ended."""
        self.running[generator] = True
        reference = next(generator, None)
        if reference is None:
            del self.running[generator], self._sizes[generator]
        return reference

    def close(self) -> None:
        """End the tasks."""
        self._waiting.clear()
        for generator in self.running:
            with suppress(Exception):  # it may have gone with its cluster
                ray.cancel(generator, force=True)


def _scored(readers: _Readers, pool: ScorerPool, ended: threading.Event, meter: "_StreamMeter") -> Iterator[pa.Table]:
    """The scored tables as they come; blocks go from the readers to the pool meanwhile."""
    readers.fill()
    while (readers.running or pool.scoring) and not ended.is_set():
        meter.look(readers, pool)
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


class _StreamMeter:
    """Counts what waits for what, `LOOK_S` by `LOOK_S`: queues, scorers without tiles, blocks that nobody takes."""

    def __init__(self, n_later: int) -> None:
        self._n_later, self._looked_at = n_later, time.monotonic()

    def look(self, readers: _Readers, pool: ScorerPool) -> None:
        """Look, if it is time."""
        passed_s = time.monotonic() - self._looked_at
        if passed_s < LOOK_S:
            return
        self._looked_at += passed_s
        ready = 0 if pool.has_room() else len(_there(readers.running))
        to_read, reading = readers.counts()
        scoring, to_score = pool.at_work()
        sizes = {"to_read": self._n_later + to_read, "reading": reading, "to_score": ready + to_score}
        _tell_queues(sizes | {"scoring": scoring})
        metrics.count(metrics.WAIT_SECONDS, ready * passed_s, on="room")
        metrics.count(metrics.WAIT_SECONDS, pool.idle_s(), on="data")

    def close(self) -> None:
        """Nothing is on the way any more."""
        _tell_queues({"to_read": self._n_later, "reading": 0, "to_score": 0, "scoring": 0})


def _tell_queues(sizes: dict[str, int]) -> None:
    for queue, size in sizes.items():
        metrics.set_gauge(metrics.QUEUE, size, queue=queue)


def _there(waited_for: dict[Any, Any], *, fetch: bool = False) -> list[Any]:
    """Those of Ray's references and generators that need not be waited for; with `fetch`, that are on this node."""
    if not waited_for:
        return []
    ready, _ = ray.wait([*waited_for], num_returns=len(waited_for), timeout=0, fetch_local=fetch)
    return list(ready)
