"""Rows of a dataset come as they are there, and closing ends what still runs."""

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray

from uadray.cluster.dataset_rows import StreamError, dataset_rows, stop_execution


class Dataset:
    """What is asked of a Ray dataset. Between two tables it waits for `more`."""

    def __init__(self, tables: list[pa.Table | Exception]) -> None:
        self.tables, self.more, self.stopped = tables, threading.Event(), False
        self._current_executor = self

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        for table in self.tables:
            if isinstance(table, Exception):
                raise table
            yield table
            self.more.wait(10)

    def shutdown(self, *, force: bool) -> None:
        self.stopped = force
        self.more.set()


def test_rows_come_in_order_and_none_while_there_are_none() -> None:
    dataset = Dataset([pa.table({"slide": [0, 1]}), pa.table({"slide": [2]})])
    rows = dataset_rows(dataset)
    assert [next(rows) for _ in range(3)] == [{"slide": 0}, {"slide": 1}, None]
    dataset.more.set()
    assert [row for row in rows if row is not None] == [{"slide": 2}]
    assert dataset.stopped


def test_an_error_of_rays_is_one_line() -> None:
    error = RuntimeError("ray::read() (pid=1, ip=10.0.0.3)\n  File x\nOSError: no disk\n")
    with pytest.raises(StreamError, match=r"^OSError: no disk \(node 10\.0\.0\.3\)$"):
        list(dataset_rows(Dataset([error])))


def test_a_caller_that_stops_ends_what_runs() -> None:
    dataset = Dataset([pa.table({"slide": [i]}) for i in range(100)])
    rows = dataset_rows(dataset)
    next(rows)
    rows.close()
    assert dataset.stopped
    assert not [thread for thread in threading.enumerate() if thread.name == "uadray-stream"]


def _slow(row: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.2)
    return row


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray.data.context")  # Ray, of its own options
def test_rays_private_name_means_the_same() -> None:
    """`Dataset._current_executor`: a running dataset has it, and it stops where it is shut down."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    dataset = ray.data.range(400, override_num_blocks=400).map(_slow)
    rows = dataset_rows(dataset)
    while next(rows) is None:
        pass
    assert dataset._current_executor is not None
    began = time.monotonic()
    rows.close()
    assert time.monotonic() - began < 15, "400 rows take 20 s on 4 CPUs"
    stop_execution(dataset)  # a second time does nothing
    stop_execution(object())
