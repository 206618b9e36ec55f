"""Read, score and hand to the driver, on Ray Data: a read task for each slide or group, then a pool of scoring actors.

    read task (READ_CPUS) --> rows --> scoring actor (SCORE_CPUS) --> rows --> driver

Rows are large, and each is a block of its own; the small ones of a group are joined. What a row holds is the caller's.
Here a row has the columns `slide` and `part`, and a row whose part is negative needs no scoring (see
`screening.parts`). Readers and scorers tell the driver's watch what they begin and end.
"""

import functools
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import cv2
import pyarrow as pa
import ray

from uadray.cluster.dataset_rows import dataset_rows
from uadray.cluster.nodes import Nodes
from uadray.cluster.read_tasks import ReadTask, TaskSource
from uadray.cluster.watch_actor import DriversWatch, watched
from uadray.cluster.workers import READ_CPUS, SCORE_CPUS, StreamConfig, plan_workers
from uadray.errors import SYSTEM_REASONS, reason_of

BLOCK_BYTES = 2**20
"""Ray Data joins the rows of a task into blocks of this size. A row is mostly larger, and then is a block by itself."""

BROKEN_S = 5.0
"""How long a scorer that cannot be built keeps a row. If it gave rows back at once, it would be the fastest scorer and
get most of them."""

FailedRow = Callable[[int, str, str], pa.Table]
"""Makes the row that says why a slide's work failed: index of the slide, reason, message."""


class WatchedScorer:
    """The actor around a scorer: it tells the watch what it works on, and a fault becomes a row instead of an error.

    A scorer that cannot be built (no access to the weights, a broken device) gives each row back as failed: whoever
    started the stream learns of it and starts another without this node.

    Args:
        scorer: the class that scores.
        watch: name of the watch's actor.
        failed_row: makes the row of a slide that failed.
        arguments: of the scorer's constructor.
    """

    def __init__(self, scorer: type, watch: str, failed_row: FailedRow, **arguments: Any) -> None:
        cv2.setNumThreads(1)  # the cores are for the readers and for the scorer's own threads
        self._watch, self._failed_row = watch, failed_row
        self._scorer: Any = None
        self._broken: tuple[str, str] | None = None
        try:
            self._scorer = scorer(**arguments)
        except Exception as error:
            word, message = reason_of(error)
            self._broken = (word if word in SYSTEM_REASONS else "device", f"the detector cannot be loaded: {message}")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of the reader -> rows of the scorer, in their order."""
        if len(table) == 1:
            return self._scored(table)
        return pa.concat_tables([self._scored(table.slice(place, 1)) for place in range(len(table))])

    def _scored(self, table: pa.Table) -> pa.Table:
        slide, part = table["slide"][0].as_py(), table["part"][0].as_py()
        if part < 0:
            return table
        if self._broken is not None:
            time.sleep(BROKEN_S)
            return self._failed_row(slide, *self._broken)
        with watched(self._watch, "score", slide, part) as refusal:
            return self._scorer(table) if refusal is None else self._failed_row(slide, "crashed", refusal)


def stream(
    tasks: Sequence[ReadTask], *, scorer: type, arguments: dict[str, Any], failed_row: FailedRow,
    config: StreamConfig, nodes: Nodes, watch: DriversWatch, groups: Sequence[Sequence[int]] | None = None,
) -> Generator[dict[str, Any] | None]:  # fmt: skip
    """Read and score; yields scored rows as dicts, as they come, and None after every second without one.

    Args:
        tasks: the read tasks, each yielding tables of one row.
        scorer: a class whose instances map a row of the reader to a row of the scorer; each actor builds one, with
            `arguments` and `threads`.
        arguments: for the scorer's constructor.
        failed_row: makes the row of a slide that cannot be read or scored.
        config: workers and their resources.
        nodes: those that are used.
        watch: knows what is being worked on, and which slides have crashed: of such a slide no row may come.
        groups: places of `tasks` that are run one after the other in one task of Ray's; each by itself unless given.

    Raises:
        InputError: a plan in which no CPU is left for reading.
        StreamError: Ray ended it.
    """
    workers, threads = plan_workers(config, nodes.cores(), n_nodes=nodes.count(), n_gpus=nodes.gpus())
    _configure_ray_data(nodes)
    reads = [
        functools.partial(_watched_reads, watch.name, [(index, tasks[index]) for index in group], failed_row)
        for group in (groups or [[index] for index in range(len(tasks))])
    ]
    source = TaskSource("slides", reads, bytes_each=BLOCK_BYTES)
    rows = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=len(reads))
    scorer_arguments = {"threads": threads, "scorer": scorer, "watch": watch.name, "failed_row": failed_row}
    scored = rows.map_batches(
        WatchedScorer,
        fn_constructor_kwargs=arguments | scorer_arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=SCORE_CPUS,
        num_gpus=config.gpus,
    )
    yield from dataset_rows(scored)


def _configure_ray_data(nodes: Nodes) -> None:
    """Set what Ray Data takes from this process's context."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_options.label_selector = nodes.selector()
    context.execution_no_progress_timeout_s = -1  # `waiting` decides when nothing moves
    context.target_max_block_size = BLOCK_BYTES
    # Ray Data warns where a job is too small for its actors, and splits the blocks of few slides into near empty ones
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", category=UserWarning)


def _watched_reads(
    watch: str | None, tasks: Sequence[tuple[int, ReadTask]], failed_row: FailedRow
) -> Iterator[pa.Table]:
    """The rows of slides, one slide after the other."""
    for index, task in tasks:
        yield from _watched_read(watch, index, task, failed_row)


def _watched_read(watch: str | None, index: int, task: ReadTask, failed_row: FailedRow) -> Iterator[pa.Table]:
    """A slide's rows, or its failed row where the slide has killed its readers before."""
    cv2.setNumThreads(1)  # a node has as many readers as CPUs
    with watched(watch, "read", index) as refusal:
        if refusal is None:
            yield from task()
        else:
            yield failed_row(index, "crashed", refusal)
