"""Joining a Ray cluster, or starting one on this machine, with the settings that uadray needs."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from uadray.cluster.joining import check_joinable
from uadray.errors import WorkError

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # torch's idle threads sleep: spinning, they would use the cores that readers need
    # glibc keeps freed activations; returned to the kernel, they would be faulted in again at every step
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # keeps Ray's own warnings off the terminal; failures arrive as exceptions
    "RAY_USAGE_STATS_ENABLED": "0",  # patient archives do not phone home
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # a command shows one progress bar, that of uadray
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""Of this process and, where Ray is started here, of its workers; a variable that is set already stays."""


def connect(*, quiet: bool = True, begun_at: str | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names, else start Ray on this machine; does nothing where Ray already runs.

    Without `RAY_ADDRESS` no cluster is joined, even if one runs on this machine.

    Args:
        quiet: keep what workers print off the terminal.
        begun_at: address of a Ray that another command of ours has started; it is joined without being looked at.

    Raises:
        InputError: there is no cluster at that address, it refuses our token, or it has other versions.
        WorkError: Ray does not start, or cannot join for another reason.
    """
    if ray.is_initialized():
        return
    address = begun_at or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _log_file() as log:
        if address != "local" and not begun_at:
            check_joinable(address, log=log)
        _start(address, quiet=quiet, log=log)


@contextmanager
def begun(kept: Callable[[Callable[[], None]], Callable[[], None]]) -> Iterator[str]:
    """Start Ray on this machine for other commands, which join it by the address that this gives; ends it after them.

    Args:
        kept: keeps this process's handlers of signals over a call, since Ray takes SIGTERM when it starts.
    """
    kept(connect)()
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def cores() -> int:
    """CPUs of the whole cluster."""
    return int(ray.cluster_resources().get("CPU", 1))


def _start(address: str, *, quiet: bool, log: Path) -> None:
    options: dict[str, Any] = {"address": address, "log_to_driver": not quiet, "logging_level": logging.ERROR}
    if address == "local":
        # two CPUs at least, one for a reader and one for a scorer: with one, scorers could take it and wait for readers
        options |= {"num_cpus": max(2, os.cpu_count() or 2), "include_dashboard": False}
    try:
        with _standard_error_in(log):
            ray.init(**options)
    except Exception as error:  # Ray raises many kinds; after each of them nothing was begun
        problem = "Ray cannot be started on this machine"
        if address != "local":
            problem = f"the Ray cluster {address} cannot be joined"
        said = " ".join(str(error).split())[:300]
        raise WorkError(
            f"{problem} ({said}); nothing was begun, the same command can be run again; Ray's own words are in {log}"
        ) from error


@contextmanager
def _log_file() -> Iterator[Path]:
    """A file for what Ray prints while it is joined; it is kept where that fails."""
    descriptor, name = tempfile.mkstemp(prefix="uadray-ray-", suffix=".log")
    os.close(descriptor)
    yield Path(name)
    Path(name).unlink(missing_ok=True)


@contextmanager
def _standard_error_in(log: Path) -> Iterator[None]:
    """Write standard error to a file: of the descriptor itself, since Ray's core writes to it past `sys.stderr`."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
