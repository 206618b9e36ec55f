"""Joining a Ray cluster, or starting one on this machine."""

import logging
import os
from typing import Any

import ray

from uadray.errors import WorkError

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # torch's idle threads sleep instead of spinning on the cores that readers need
    # glibc keeps freed activations instead of returning them to the kernel and faulting them in again at every step
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its warnings about itself are not for the terminal; failures come as exceptions
    "RAY_USAGE_STATS_ENABLED": "0",  # patient archives do not phone home
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # a command has one progress bar, its own
    "RAY_TRAIN_V2_ENABLED": "1",
}


def connect(*, quiet: bool = True) -> None:
    """Join the cluster of `RAY_ADDRESS`, else start Ray on this machine; does nothing where Ray already runs.

    Raises:
        WorkError: there is no cluster there, or Ray does not start.
    """
    if ray.is_initialized():
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": not quiet, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        # one reader and one scorer at least: a pool that takes every CPU would wait for readers for ever
        options |= {"num_cpus": max(2, os.cpu_count() or 2), "include_dashboard": False}
    try:
        ray.init(**options)
    except Exception as error:  # Ray has many; whichever it is, nothing was begun
        where = os.environ.get("RAY_ADDRESS")
        what = f"the Ray cluster {where} cannot be joined" if where else "Ray cannot be started on this machine"
        raise WorkError(f"{what} ({error}); nothing was begun, the same command can be run again") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 16 * 2**20
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def cores() -> int:
    """CPUs of the whole cluster."""
    return int(ray.cluster_resources().get("CPU", 1))
