"""A cache of so many values at most; the one used longest ago goes first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, final

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@final
class BoundedCache(Generic[Key, Value]):
    """Values by key. Safe to use from several threads.

    Args:
        most: values that are kept.
        most_bytes: that they may have together, by `size`; one larger value is kept alone.
        size: bytes of a value.
    """

    def __init__(
        self, *, most: int, most_bytes: int | None = None, size: Callable[[Value], int] = lambda value: 0
    ) -> None:
        self._most, self._most_bytes, self._size = most, most_bytes, size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def peek(self, key: Key) -> Value | None:
        """The value of a key, if it is kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, in the place of one that may be there."""
        with self._lock:
            self._put(key, value)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made where there is none. `make` is quick: others wait meanwhile."""
        with self._lock:
            if key not in self._values:
                self._put(key, make())
            self._values.move_to_end(key)
            return self._values[key]

    def _put(self, key: Key, value: Value) -> None:
        if key in self._values:
            self._bytes -= self._size(self._values.pop(key))
        self._values[key] = value
        self._bytes += self._size(value)
        while len(self._values) > self._most or (
            self._most_bytes is not None and self._bytes > self._most_bytes and len(self._values) > 1
        ):
            self._bytes -= self._size(self._values.popitem(last=False)[1])
