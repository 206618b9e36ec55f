"""Slow calls at once, their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from uadray.storage import objects

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 32
"""Objects of S3 that are asked for at once: each takes a round trip, whatever its size."""


def in_order(function: Callable[[T], R], items: Iterable[T], *, uri: str) -> Iterator[R]:
    """`function` of each item, in the order of `items`; where `uri` is in S3, `IN_FLIGHT` of them are called ahead.

    No more than those are held in memory. Local files are read one by one.
    """
    waiting = deque[Future[R]]()
    with ThreadPoolExecutor(IN_FLIGHT if objects.is_s3(uri) else 1) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) >= IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
