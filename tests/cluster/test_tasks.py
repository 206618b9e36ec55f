"""Items whose process or node dies, and those around them. Worker processes are really killed."""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from uadray.cluster import tasks
from uadray.cluster.tasks import CRASHES, LOST_NODES, Crashed, in_parallel
from uadray.errors import WorkError


@pytest.fixture
def sent_to_workers() -> Iterator[None]:
    """What this file defines: workers cannot import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _dies_over_two(number: int, exponent: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(number**exponent)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "sent_to_workers")
def test_an_item_that_kills_its_process_twice_is_the_only_one_lost() -> None:
    results = dict(in_parallel(_dies_over_two, range(12), 2))
    crashed = results.pop(2)
    assert isinstance(crashed, Crashed)
    assert "its process died 2 times" in crashed.message
    assert results == {n: n * n for n in range(12) if n != 2}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "sent_to_workers")
def test_without_a_living_cpu_no_item_is_dropped() -> None:
    class NoNodes(tasks.Nodes):
        def cores(self) -> int:
            return 0

    assert dict(in_parallel(_dies_over_two, [3, 4], 1, nodes=NoNodes())) == {3: 3, 4: 4}


def _ended_by(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def get(_: Any) -> None:
        raise error

    monkeypatch.setattr("uadray.cluster.tasks.ray.get", get)


def test_a_lost_node_says_nothing_of_the_item_and_many_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = tasks._Attempt("slide")
    _ended_by(monkeypatch, ray.exceptions.NodeDiedError("node 10.0.0.1\nis gone"))
    for _ in range(LOST_NODES - 1):
        assert tasks._result(None, attempt) is tasks._NOTHING
    assert attempt.crashes == 0
    with pytest.raises(WorkError, match=r"5 nodes were lost one after the other: .*node 10\.0\.0\.1 is gone"):
        tasks._result(None, attempt)


def test_a_process_without_memory_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = tasks._Attempt("slide")
    _ended_by(monkeypatch, ray.exceptions.OutOfMemoryError("killed"))
    results = [tasks._result(None, attempt) for _ in range(CRASHES)]
    assert results[0] is tasks._NOTHING
    assert isinstance(results[1], Crashed)
