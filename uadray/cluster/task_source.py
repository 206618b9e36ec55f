"""A Ray Data source of plain functions: one read task for some hundred tiles of a tile set, or for each slide."""

from collections.abc import Sequence
from typing import Any

from ray.data import datasource
from ray.data.block import BlockMetadata

from uadray.cluster.read_tasks import ReadTask, patient


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
        self._tasks = patient(tasks)

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
