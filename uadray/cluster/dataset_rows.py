"""The rows of a running Ray dataset, taken by a thread so that whoever waits for them can do other things meanwhile."""

import queue
import re
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

IDLE_S = 1.0
"""At the latest after so long a caller hears that there is no row."""

STOP_S = 20.0
"""How long the end of a stream waits for what still runs in it: a cluster without its head never answers."""


class StreamError(Exception):
    """A stream has ended before all its rows came; the message is Ray's, in one line."""


def dataset_rows(dataset: Any) -> Generator[dict[str, Any] | None]:
    """Rows of a Ray dataset as dicts, as they come, and None after every second without one.

    Closing the generator ends what the dataset has running.

    Raises:
        StreamError: Ray ended the dataset.
    """
    arrived: queue.Queue[Any] = queue.Queue(maxsize=2)
    ended = threading.Event()
    taker = threading.Thread(target=_take, args=(dataset, arrived, ended), name="uadray-stream", daemon=True)
    taker.start()
    try:
        while True:
            try:
                item = arrived.get(timeout=IDLE_S)
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
        stopper.join(STOP_S)
        taker.join(1.0)


def _take(dataset: Any, arrived: queue.Queue[Any], ended: threading.Event) -> None:
    """Put the dataset's tables into a queue, then None or the error that ended it; stops once `ended` is set."""

    def put(item: Any) -> None:
        while not ended.is_set():
            with suppress(queue.Full):
                arrived.put(item, timeout=0.2)
                return

    try:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            put(table)
            if ended.is_set():
                return
        put(None)
    except Exception as error:
        put(error)


def stop_execution(dataset: Any) -> None:
    """End what a dataset has running.

    Ray has no public way while somebody waits for its next row (private: `_current_executor`).
    """
    executor = getattr(dataset, "_current_executor", None)
    if executor is not None:
        executor.shutdown(force=True)


_EXCEPTION = re.compile(r"(?:[a-z_]\w*\.)*[A-Z]\w*: .+")
_ADDRESS = re.compile(r"\bip=([0-9a-fA-F.:]+)")


def what_was_raised(error: BaseException) -> str:
    r"""The last exception in the tracebacks of an error of Ray's, and the node that it came from.

    >>> what_was_raised(ValueError("ray::f() (pid=1, ip=10.0.0.3)\n  File x\nOSError: no disk\n\nTo change it"))
    'OSError: no disk (node 10.0.0.3)'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.fullmatch(line)] or lines or [type(error).__name__]
    addresses = _ADDRESS.findall(str(error))
    return exceptions[-1][:300] + (f" (node {addresses[-1]})" if addresses else "")
