"""The rows of a running stream, taken by a thread so that whoever waits for them can do other things meanwhile."""

import queue
import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

IDLE_S = 1.0
"""At the latest after so long a caller hears that there is no row."""

STOP_S = 20.0
"""How long the end of a stream waits for what still runs in it: a cluster without its head never answers."""


class StreamError(Exception):
    """A stream has ended before all its rows came; the message is Ray's, in one line."""


def rows_of(tables: Callable[[threading.Event], Iterator[Any]]) -> Generator[dict[str, Any] | None]:
    """Rows of Arrow tables as dicts, as they come, and None after every second without one.

    Args:
        tables: yields the tables, in a thread of its own; ends, and ends what it has running, once the event is set.

    Raises:
        StreamError: `tables` raised something.
    """
    arrived: queue.Queue[Any] = queue.Queue(maxsize=2)
    ended = threading.Event()
    taker = threading.Thread(target=_take, args=(tables, arrived, ended), name="uadray-stream", daemon=True)
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
        taker.join(STOP_S)


def _take(
    tables: Callable[[threading.Event], Iterator[Any]], arrived: queue.Queue[Any], ended: threading.Event
) -> None:
    """Put the tables into a queue, then None or the error that ended them; stops once `ended` is set."""

    def put(item: Any) -> None:
        while not ended.is_set():
            with suppress(queue.Full):
                arrived.put(item, timeout=0.2)
                return

    try:
        for table in tables(ended):
            put(table)
        put(None)
    except Exception as error:
        put(error)


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
