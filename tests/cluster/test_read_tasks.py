"""Read tasks: as many as functions, and errors that keep their place."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from uadray.cluster.read_tasks import bind_read_task
from uadray.cluster.task_source import TaskSource


def _numbers(first: int, count: int) -> Iterator[pa.Table]:
    for i in range(count):
        if first + i == 13:
            raise KeyError("thirteen")
        yield pa.table({"n": [first + i]})


def test_each_function_is_one_task_whatever_ray_asks_for() -> None:
    source = TaskSource("numbers", [bind_read_task(_numbers, 10 * i, 2) for i in range(3)], bytes_each=100)
    assert (source.get_name(), source.estimate_inmemory_data_size()) == ("numbers", 300)
    for parallelism in (1, 3, 200):
        read = source.get_read_tasks(parallelism)
        assert [[table["n"][0].as_py() for table in task()] for task in read] == [[0, 1], [10, 11], [20, 21]]


def test_a_programming_error_keeps_its_traceback() -> None:
    task = bind_read_task(_numbers, 12, 2)
    with pytest.raises(
        RuntimeError, match=r"(?s)reader failed: 'thirteen'\nTraceback.*in _numbers.*KeyError"
    ) as caught:
        list(task())
    assert caught.value.__cause__ is None
