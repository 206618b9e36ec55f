"""Rows read, scored and handed to the driver, on Ray Data: one read task a slide, then a pool of scoring actors.

What is in a row is the caller's: here a row has the columns `slide` and `part`, and a negative part is one that needs
no scoring (see `screening.parts`).
"""

import functools
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import cv2
import pyarrow as pa
import ray

from uadray.cluster.nodes import Nodes
from uadray.cluster.read_tasks import ReadTask, TaskSource
from uadray.cluster.watch import DriversWatch, watched
from uadray.cluster.workers import READ_CPUS, SCORE_CPUS, StreamConfig, plan_workers
from uadray.errors import SYSTEM_REASONS, reason_of

BLOCK_BYTES = 2**20
"""What Ray Data would like a block to have. A row here is a part and mostly larger, and then a block of its own:
joined, parts would only be taken apart again."""

BROKEN_S = 5.0
"""For so long a scorer that cannot be built keeps a part: giving parts back at once it would be the fastest."""

STOP_S = 20.0
"""For so long a stream that is ended is given to end what runs in it."""


FailedRow = Callable[[int, str, str], pa.Table]
"""Makes the row that says why a slide's work failed: index of the slide, reason, message."""


class StreamError(Exception):
    """A stream that has ended before its rows have: what Ray says of it, in one line."""


class WatchedScorer:
    """The actor around a scorer: it says what it works on, and reports instead of raising.

    A scorer that cannot be built (no access to the weights, a broken device) gives each part back, slowly: whoever
    started the stream hears of it and starts another without this node.
    """

    def __init__(self, scorer: type, watch: str, failed_row: FailedRow, **arguments: Any) -> None:
        cv2.setNumThreads(1)  # cores belong to the readers, and to the scorer's own threads
        self._watch, self._failed_row = watch, failed_row
        self._scorer: Any = None
        self._broken: tuple[str, str] | None = None
        try:
            self._scorer = scorer(**arguments)
        except Exception as error:
            word, message = reason_of(error)
            self._broken = (word if word in SYSTEM_REASONS else "device", f"the detector cannot be loaded: {message}")

    def __call__(self, table: pa.Table) -> pa.Table:
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
    tasks: Sequence[ReadTask], *, scorer: type, arguments: dict[str, Any], failed_row: FailedRow,
    config: StreamConfig, nodes: Nodes, watch: DriversWatch,
) -> Generator[dict[str, Any] | None]:  # fmt: skip
    """Read and score; yields scored rows as they come (as dicts), and None at least every second.

    Args:
        tasks: what is read, each a Ray Data task of its own; each yields tables of one row.
        scorer: a class whose instances map a row of the reader to a row of the scorer; built once an actor with
            `arguments` and `threads`.
        arguments: for the scorer's constructor.
        failed_row: makes the row of a slide that cannot be read or scored.
        config: workers and their resources.
        nodes: those that are used.
        watch: knows what is being worked on, and which slides have crashed: of such a slide no row may come.

    Raises:
        InputError: a plan in which no CPU is left for reading.
        StreamError: it broke.
    """
    workers, threads = plan_workers(config, nodes.cores(), n_nodes=nodes.count(), n_gpus=nodes.gpus())
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_options.label_selector = nodes.selector()
    context.execution_no_progress_timeout_s = -1  # the driver looks at what moves, see `waiting`
    context.target_max_block_size = BLOCK_BYTES
    # of a job that is too small for its actors Ray Data warns, and cuts the blocks of few slides into mostly empty ones
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", category=UserWarning)
    watched_tasks = [
        functools.partial(_watched_read, watch.name, index, task, failed_row) for index, task in enumerate(tasks)
    ]
    source = TaskSource("slides", watched_tasks, bytes_each=BLOCK_BYTES)
    parts = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=len(tasks))
    scored = parts.map_batches(
        WatchedScorer,
        fn_constructor_kwargs=arguments
        | {"threads": threads, "scorer": scorer, "watch": watch.name, "failed_row": failed_row},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=SCORE_CPUS,
        num_gpus=config.gpus,
    )
    yield from _rows(scored)


def _rows(dataset: Any) -> Generator[dict[str, Any] | None]:
    """Rows of a dataset, taken by a thread: this one is never held up by Ray, and may look at other things."""
    came: queue.Queue[Any] = queue.Queue(maxsize=2)
    ended = threading.Event()

    def put(item: Any) -> None:
        while not ended.is_set():
            with suppress(queue.Full):
                came.put(item, timeout=0.2)
                return

    def take() -> None:
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                put(table)
                if ended.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)

    thread = threading.Thread(target=take, name="uadray-stream", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = came.get(timeout=1.0)
            except queue.Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise StreamError(what_was_raised(item)) from item
            yield from item.to_pylist()
    finally:
        ended.set()
        stopper = threading.Thread(target=stop_execution, args=(dataset,), name="uadray-stop", daemon=True)
        stopper.start()
        stopper.join(STOP_S)  # a cluster without its head never answers
        thread.join(1.0)


def stop_execution(dataset: Any) -> None:
    """End what a dataset has running. Ray has no public way while somebody waits for its next row."""
    executor = getattr(dataset, "_current_executor", None)
    if executor is not None:
        executor.shutdown(force=True)


_RAISED = re.compile(r"(?:[a-z_]\w*\.)*[A-Z]\w*: .+")
_ADDRESS = re.compile(r"\bip=([0-9a-fA-F.:]+)")


def what_was_raised(error: BaseException) -> str:
    r"""What an error of Ray's comes down to: the last exception of its tracebacks, and the node it came from.

    >>> what_was_raised(ValueError("ray::f() (pid=1, ip=10.0.0.3)\n  File x\nOSError: no disk\n\nTo change it"))
    'OSError: no disk (node 10.0.0.3)'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.fullmatch(line)] or lines or [type(error).__name__]
    nodes = _ADDRESS.findall(str(error))
    return raised[-1][:300] + (f" (node {nodes[-1]})" if nodes else "")


def _watched_read(watch: str | None, index: int, task: ReadTask, failed_row: FailedRow) -> Iterator[pa.Table]:
    """A slide's rows; what has killed its readers before is left."""
    cv2.setNumThreads(1)  # a node has as many readers as CPUs
    with watched(watch, "read", index) as refusal:
        if refusal is None:
            yield from task()
        else:
            yield failed_row(index, "crashed", refusal)
