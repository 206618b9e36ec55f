"""Ray Data sources: one ReadTask a slide (a file opens once), or one for some hundred files of a tile set."""

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
    """

    def __init__(self, name: str, reads: Sequence[ReadTask], *, bytes_each: int) -> None:
        super().__init__()
        self._name, self._bytes_each = name, bytes_each
        self._reads = [functools.partial(_patient, read) for read in reads] if s3_client.has_answered() else list(reads)

    def get_name(self) -> str:
        """As it appears in Ray's statistics."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all tasks together, roughly: Ray plans its memory by it."""
        return self._bytes_each * len(self._reads)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[datasource.ReadTask]:
        """One task a read, whatever `parallelism` says."""
        metadata = BlockMetadata(num_rows=None, size_bytes=self._bytes_each, input_files=None, exec_stats=None)
        return [datasource.ReadTask(read, metadata, per_task_row_limit=per_task_row_limit) for read in self._reads]


def _patient(read: ReadTask) -> Iterable[pa.Table]:
    """A reader waits for the server that its driver has reached, from its first request on."""
    s3_client.assume_reachable()
    return read()


def bind_read_task(function: Callable[..., Iterator[pa.Table]], *arguments: Any) -> ReadTask:
    """Bind arguments; a programming error keeps its traceback across processes."""
    return functools.partial(_guarded, function, arguments)


def _guarded(function: Callable[..., Iterator[pa.Table]], arguments: tuple[Any, ...]) -> Iterator[pa.Table]:
    try:
        yield from function(*arguments)
    except Exception as error:
        raise RuntimeError(f"reader failed: {error}\n{traceback.format_exc()}") from None
