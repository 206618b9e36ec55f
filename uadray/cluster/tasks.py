"""Independent tasks on the cluster, one an item; and where things go that must outlive the cluster's other nodes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uadray.cluster.nodes import Nodes
from uadray.errors import WorkError

T = TypeVar("T")
R = TypeVar("R")

CRASHES = 2
"""Processes that may die over one item; then it is the item's own fault."""

LOST_NODES = 5
"""Nodes that may be lost under one item, which says nothing about it."""


@dataclass(frozen=True)
class Crashed:
    """What is found of an item whose process died twice."""

    message: str


def in_parallel(
    function: Callable[..., R], items: Iterable[T], *arguments: Any, num_cpus: float = 1, nodes: Nodes | None = None
) -> Iterator[tuple[T, R | Crashed]]:
    """Call `function(item, *arguments)` in tasks, twice as many at once as there are CPUs; yields each as it ends.

    A process that dies (a segfault, the out-of-memory killer) is tried once more. Ray's own retries are not used: it
    tries again without end where memory ran out.

    Raises:
        WorkError: the nodes are lost faster than work gets done.
    """
    used = nodes or Nodes()
    plain = ray.remote(num_cpus=num_cpus, max_retries=0)(function)

    def start(item: T) -> Any:
        selector = used.selector()
        return (plain.options(label_selector=selector) if selector else plain).remote(item, *arguments)

    waiting, running = iter(items), dict[Any, tuple[T, int, int]]()
    while True:
        while len(running) < 2 * used.cores():
            item = next(waiting, _NOTHING)
            if item is _NOTHING:
                break
            running[start(item)] = (item, 0, 0)
        if not running:
            return
        (first,), _ = ray.wait(list(running), num_returns=1)
        item, crashes, losses = running.pop(first)
        try:
            found: R | Crashed = ray.get(first)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            crashes += 1
            found = Crashed(f"its process died {CRASHES} times: {_first_words(error)}")
            if crashes < CRASHES:
                running[start(item)] = (item, crashes, losses)
                continue
        except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError) as error:
            losses += 1
            if losses >= LOST_NODES:
                raise WorkError(f"{losses} nodes were lost one after the other: {_first_words(error)}") from error
            running[start(item)] = (item, crashes, losses)
            continue
        yield item, found


_NOTHING: Any = object()


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """For actors that hold what the driver needs: they are lost with the driver's node, and with no other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
