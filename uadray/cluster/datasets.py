"""What a training needs of Ray: a dataset of read tasks, an object all readers share, and an actor on this node."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray

from uadray.cluster.nodes import on_this_node
from uadray.cluster.read_tasks import bind_read_task
from uadray.cluster.task_source import TaskSource


def task_dataset(
    name: str, read: Callable[..., Iterator[pa.Table]], arguments: Sequence[tuple[Any, ...]], *, task_bytes: int,
    block_bytes: int, selector: dict[str, str] | None = None, task_cpus: float = 1.0,
) -> Any:  # fmt: skip
    """A Ray Dataset of one read task for each tuple of arguments, in that order.

    Args:
        name: as it appears in Ray's statistics.
        read: yields the tables of a task.
        arguments: of each task.
        task_bytes: of what a task reads, roughly.
        block_bytes: a block goes out when it has as many.
        selector: labels of the nodes that read, where some are left out.
        task_cpus: that a read task asks Ray for.
    """
    tasks = TaskSource(name, [bind_read_task(read, *each) for each in arguments], bytes_each=task_bytes)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.read_datasource(
        tasks,
        num_cpus=task_cpus,
        override_num_blocks=len(arguments),  # else Ray cuts blocks further
    )
    dataset.context.target_max_block_size = block_bytes
    dataset.context.execution_options.label_selector = selector
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset


def held_to(cpus: float, *, selector: dict[str, str] | None = None) -> Any:
    """Ray Train's configuration of a job whose datasets read on so many CPUs, and no more."""
    limits = ray.data.ExecutionResources(cpu=cpus)
    options = ray.data.ExecutionOptions(resource_limits=limits)
    options.label_selector = selector
    return ray.train.DataConfig(execution_options=options)


def shared(value: Any) -> Any:
    """A reference to a value in Ray's object store, which all readers of a node share."""
    return ray.put(value)


@lru_cache(maxsize=1)
def fetched(reference: Any) -> Any:
    """The value of `shared`, fetched once a process: the last one is kept."""
    return ray.get(reference)


def actor_here(kind: type) -> Any:
    """An actor that is lost with the driver's node, and with no other; it takes no CPU."""
    return ray.remote(num_cpus=0)(kind).options(scheduling_strategy=on_this_node()).remote()


def answer(reference: Any) -> Any:
    """Wait for what an actor's method returns."""
    return ray.get(reference)
