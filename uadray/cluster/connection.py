"""Joining a Ray cluster, or starting one on this machine."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from uadray.cluster.joining import look_first
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

    A cluster that was not named is not joined, whatever else runs on this machine.

    Raises:
        InputError: there is no cluster there, it does not take our token, or its versions are others.
        WorkError: Ray does not start, or cannot join for another reason.
    """
    if ray.is_initialized():
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"address": address, "log_to_driver": not quiet, "logging_level": logging.ERROR}
    if address == "local":
        # one reader and one scorer at least: a pool that takes every CPU would wait for readers for ever
        options |= {"num_cpus": max(2, os.cpu_count() or 2), "include_dashboard": False}
    with _log() as log:
        if address != "local":
            look_first(address, log=log)
        try:
            with _standard_error_in(log):
                ray.init(**options)
        except Exception as error:  # Ray has many; whichever it is, nothing was begun
            what = "Ray cannot be started on this machine"
            if address != "local":
                what = f"the Ray cluster {address} cannot be joined"
            said = " ".join(str(error).split())[:300]
            raise WorkError(
                f"{what} ({said}); nothing was begun, the same command can be run again; Ray's own words are in {log}"
            ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 16 * 2**20
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextmanager
def _log() -> Iterator[Path]:
    """A file for what Ray says while it is joined; stays where that fails."""
    descriptor, name = tempfile.mkstemp(prefix="uadray-ray-", suffix=".log")
    os.close(descriptor)
    yield Path(name)
    Path(name).unlink(missing_ok=True)


@contextmanager
def _standard_error_in(log: Path) -> Iterator[None]:
    """Ray's core writes to the descriptor itself, past `sys.stderr`."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def cores() -> int:
    """CPUs of the whole cluster."""
    return int(ray.cluster_resources().get("CPU", 1))
