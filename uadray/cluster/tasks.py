"""Independent tasks on the cluster, one for each item.

    item --> task --> result
              |
              |-- its process died     started again; the second time the item ends as `Crashed`
              `-- its node was lost    started again; the fifth time the job ends

A lost node says nothing about the item. Ray's own retries are not used: where memory ran out, they have no end.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray

from uadray import metrics
from uadray.cluster.nodes import Nodes
from uadray.errors import WorkError

T = TypeVar("T")
R = TypeVar("R")

CRASHES = 2
"""Processes that may die over one item; then the item is at fault."""

LOST_NODES = 5
"""Nodes that may be lost under one item."""


@dataclass(frozen=True)
class Crashed:
    """The result of an item whose process died twice."""

    message: str


@dataclass
class _Attempt(Generic[T]):
    """An item whose task runs, and what became of its tasks before."""

    item: T
    crashes: int = 0
    lost_nodes: int = 0


_NOTHING: Any = object()


def in_parallel(
    function: Callable[..., R], items: Iterable[T], *arguments: Any, num_cpus: float = 1, num_gpus: float = 0,
    nodes: Nodes | None = None,
) -> Iterator[tuple[T, R | Crashed]]:  # fmt: skip
    """Call `function(item, *arguments)` in tasks, twice as many at once as there are CPUs; yields each as it ends.

    Args:
        function: importable, or picklable.
        items: taken as there is room for their tasks.
        arguments: the same for each item.
        num_cpus: of a task.
        num_gpus: likewise.
        nodes: that are used; None for all.

    Raises:
        WorkError: nodes are lost faster than work gets done.
    """
    used = nodes or Nodes()
    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)(function)
    waiting, running = iter(items), dict[Any, _Attempt[T]]()

    def start(attempt: _Attempt[T]) -> None:
        selector = used.selector()
        placed = task.options(label_selector=selector) if selector else task
        running[placed.remote(attempt.item, *arguments)] = attempt

    while True:
        # one at least: while no node is left the task waits for one, and the items that follow are not dropped
        while len(running) < max(1, 2 * used.cores()) and (item := next(waiting, _NOTHING)) is not _NOTHING:
            start(_Attempt(item))
        if not running:
            return
        (ended,), _ = ray.wait(list(running), num_returns=1)
        attempt = running.pop(ended)
        result: R | Crashed = _result(ended, attempt)
        if result is _NOTHING:
            start(attempt)
        else:
            yield attempt.item, result


def _result(reference: Any, attempt: _Attempt[T]) -> Any:
    """What an ended task returned; `_NOTHING` where the item is to be tried again."""
    try:
        return ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        attempt.crashes += 1
        if attempt.crashes < CRASHES:
            metrics.count(metrics.RETRIES, cause="crashed")
            return _NOTHING
        return Crashed(f"its process died {CRASHES} times: {_first_words(error)}")
    except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError) as error:
        attempt.lost_nodes += 1
        if attempt.lost_nodes < LOST_NODES:
            metrics.count(metrics.RETRIES, cause="node")
            return _NOTHING
        lost = attempt.lost_nodes
        raise WorkError(f"{lost} nodes were lost one after the other: {_first_words(error)}") from error


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
