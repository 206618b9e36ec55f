"""A Ray Data source of plain functions: one read task for each slide, or for some hundred tiles of a tile set."""

import functools
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from ray.data import datasource
from ray.data.block import BlockMetadata

from uadray.storage import s3_client

ReadTask = Callable[[], Iterable[pa.Table]]


class TaskSource(datasource.Datasource):  # type: ignore[misc]  # Ray is untyped
    """A source whose read tasks are plain functions, each yielding Arrow tables.

    Ray's own sources cut work by bytes or rows. Slides differ a thousandfold in both, and one slide's tiles belong
    together: here each function is one task, however many workers there are.

    Args:
        name: as it appears in Ray's statistics.
        tasks: the functions.
        bytes_each: of the tables of one task, roughly.
    """

    def __init__(self, name: str, tasks: Sequence[ReadTask], *, bytes_each: int) -> None:
        super().__init__()
        self._name, self._bytes_each = name, bytes_each
        is_reached = s3_client.has_answered()
        self._tasks = [functools.partial(_with_patience, task) for task in tasks] if is_reached else list(tasks)

    def get_name(self) -> str:
        """The source's name in Ray's statistics."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all tasks together, roughly: Ray plans its memory by it."""
        return self._bytes_each * len(self._tasks)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[datasource.ReadTask]:
        """One of Ray's tasks for each function, whatever `parallelism` says."""
        metadata = BlockMetadata(num_rows=None, size_bytes=self._bytes_each, input_files=None, exec_stats=None)
        return [datasource.ReadTask(task, metadata, per_task_row_limit=per_task_row_limit) for task in self._tasks]


def _with_patience(task: ReadTask) -> Iterable[pa.Table]:
    """Read from an S3 server that the driver has reached: its silence is then waited for, from the first request on."""
    s3_client.assume_reachable()
    return task()


def bind_read_task(function: Callable[..., Iterator[pa.Table]], *arguments: Any) -> ReadTask:
    """A read task that calls `function(*arguments)`; a programming error keeps its traceback across processes."""
    return functools.partial(_read_with_traceback, function, arguments)


def _read_with_traceback(function: Callable[..., Iterator[pa.Table]], arguments: tuple[Any, ...]) -> Iterator[pa.Table]:
    try:
        yield from function(*arguments)
    except Exception as error:
        raise RuntimeError(f"reader failed: {error}\n{traceback.format_exc()}") from None
