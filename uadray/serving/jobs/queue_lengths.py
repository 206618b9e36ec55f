"""How many slides, and parts of them, are at what: of all workers of a process together."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from uadray import metrics


@final
class QueueLengths:
    """Counts what goes in and out of the queues of `metrics.QUEUES`; workers share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lengths = Counter[str]()

    @contextmanager
    def within(self, queue: str) -> Iterator[None]:
        """One more is in the queue while this lasts."""
        self._change(queue, 1)
        try:
            yield
        finally:
            self._change(queue, -1)

    def _change(self, queue: str, by: int) -> None:
        with self._lock:
            self._lengths[queue] += by
            metrics.set_gauge(metrics.QUEUE, self._lengths[queue], queue=queue)
