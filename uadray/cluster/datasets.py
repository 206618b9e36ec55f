"""What a training needs of Ray: a dataset of numbered tasks, an object all readers share, and an actor on this node."""

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import ray

from uadray.cluster.nodes import on_this_node
from uadray.cluster.read_tasks import bind_read_task
from uadray.cluster.task_source import TaskSource
from uadray.storage import s3_client


def numbered_dataset(
    name: str, numbers: Callable[[], Iterator[int]], read: Callable[[int], Iterator[pa.Table]], *, task_bytes: int,
    selector: dict[str, str] | None = None, task_cpus: float = 1.0, most_tasks: int | None = None,
) -> Any:  # fmt: skip
    """A Ray Dataset of one task for each number, whose tables come out one by one in the order of the numbers.

    That order holds under `in_order`. A task for each block, and not one for many: under it the tables of a task wait
    for all tasks before it. The numbers come from a task of their own, since read tasks of Ray's are all put into its
    object store before the first runs.

    Args:
        name: as it appears in Ray's statistics.
        numbers: yields them, and waits where readers are too far behind: Ray queues them without bound.
        read: yields the tables of a number, each of one row.
        task_bytes: of what a task reads, roughly.
        selector: labels of the nodes that read, where some are left out.
        task_cpus: that a task asks Ray for. Where several jobs share a few CPUs, Ray grants each dataset a whole number
            of those that are left, which may be none: then only tasks that ask for none ever run.
        most_tasks: that run at once; None leaves it to the CPUs.
    """
    source = TaskSource(f"{name} numbers", [bind_read_task(_rows_of, numbers)], bytes_each=task_bytes)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # not as the readers: else both become one task
    numbered = ray.data.read_datasource(source, num_cpus=0, override_num_blocks=1, label_selector=here)
    dataset = numbered.map_batches(
        partial(_read_number, read, s3_client.has_answered()), batch_size=None, batch_format="pyarrow",
        num_cpus=task_cpus, concurrency=most_tasks,
    )  # fmt: skip
    dataset.context.target_max_block_size = 1  # so that each row goes out by itself
    # Readers that wait until workers have used up what they were sent, and workers that wait for one more: not that.
    dataset.context.downstream_capacity_backpressure_ratio = None
    dataset.context.execution_options = _ordered(selector)
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset


def _rows_of(numbers: Callable[[], Iterator[int]]) -> Iterator[pa.Table]:
    return (pa.table({"number": pa.array([number], pa.int64())}) for number in numbers())


def _read_number(read: Callable[[int], Iterator[pa.Table]], is_patient: bool, table: pa.Table) -> Iterator[pa.Table]:
    if is_patient:  # the driver has reached S3, so readers wait for it from their first request on
        s3_client.assume_reachable()
    return iter(bind_read_task(read, table["number"][0].as_py())())


def in_order(*, selector: dict[str, str] | None = None) -> Any:
    """Ray Train's configuration of datasets whose order is kept, and how they are dealt to the workers.

    Args:
        selector: labels of the nodes that read, where some are left out.
    """
    return ray.train.DataConfig(execution_options=_ordered(selector), enable_shard_locality=False)


def _ordered(selector: dict[str, str] | None) -> Any:
    options = ray.data.ExecutionOptions(preserve_order=True)
    options.label_selector = selector
    return options


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
