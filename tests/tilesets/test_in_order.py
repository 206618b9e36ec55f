"""Slow calls at once, their results in order, and no more of them than may be held."""

import threading
import time

import pytest

from uadray.tilesets.in_order import IN_FLIGHT, in_order


def test_in_s3_many_are_called_at_once_and_no_more_ahead() -> None:
    called: list[int] = []
    lock, running, at_once = threading.Lock(), [0], [0]

    def slow(item: int) -> int:
        with lock:
            called.append(item)
            running[0] += 1
            at_once[0] = max(at_once[0], running[0])
        time.sleep(0.01 if item % 2 else 0.03)
        with lock:
            running[0] -= 1
        return item * item

    results = in_order(slow, range(100), uri="s3://bucket/set")
    assert next(results) == 0
    assert len(called) <= IN_FLIGHT
    assert list(results) == [i * i for i in range(1, 100)]
    assert 8 < at_once[0] <= IN_FLIGHT


def test_a_caller_that_stops_and_an_error_end_the_rest() -> None:
    called: list[int] = []

    def fails_at_five(item: int) -> int:
        called.append(item)
        if item == 5:
            raise ValueError("five")
        return item

    with pytest.raises(ValueError, match="five"):
        list(in_order(fails_at_five, range(10_000), uri="/local"))
    assert max(called) < 5 + 2 * IN_FLIGHT
    called.clear()
    results = in_order(fails_at_five, range(10_000), uri="/local")
    next(results)
    results.close()
    assert len(called) <= IN_FLIGHT
