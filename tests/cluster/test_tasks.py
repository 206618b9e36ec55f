"""Tasks that kill their process."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
import ray

from uadray.cluster.tasks import Crashed, in_parallel


@pytest.fixture
def sent_to_workers() -> Iterator[None]:
    """What this file defines: workers cannot import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _dies_over_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


@pytest.mark.ray
def test_an_item_that_kills_its_process_twice_is_the_only_one_lost(ray_cluster: None, sent_to_workers: None) -> None:
    found = dict(in_parallel(_dies_over_two, range(6)))
    assert isinstance(found[2], Crashed)
    assert "its process died 2 times" in found.pop(2).message
    assert found == {n: n * n for n in (0, 1, 3, 4, 5)}
