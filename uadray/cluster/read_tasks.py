"""Read tasks: plain functions that yield Arrow tables, one for each slide or for some hundred tiles of a tile set."""

import functools
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from uadray.storage import s3_client

ReadTask = Callable[[], Iterable[pa.Table]]


def patient(tasks: Sequence[ReadTask]) -> list[ReadTask]:
    """The same tasks; where this process has reached the S3 server, they wait for it when it is silent."""
    return [functools.partial(_with_patience, task) for task in tasks] if s3_client.has_answered() else list(tasks)


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
