"""A Ray cluster whose nodes run on several hosts of this machine, see `uadray.bench.network`.

A Ray node on a host has its own processes, its own /dev/shm and its own folder for Ray's files: Ray finds the node of a
driver's host by these.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from uadray.bench.network import HERE, Network
from uadray.bench.processes import descendants
from uadray.cluster.connection import ENVIRONMENT, connect, cores
from uadray.errors import InputError, WorkError

STORE_BYTES = 100 * 2**20
"""Size of a Ray node's object store."""

RESTART_S = 5
"""`RestartSec` of the unit in deploy/machines.md."""

DASHBOARD_PORT = 8265


@dataclass(frozen=True)
class RayNode:
    """One node of a Ray cluster.

    Attributes:
        host: on which it runs.
        cpus: how many CPUs it offers.
        environment: variables it has instead of, or beside, those of all nodes.
        restarts: it is started again whenever it ends, after `RESTART_S` and with nothing left of it, as systemd does;
            not for `HERE`.
    """

    host: int
    cpus: int
    environment: dict[str, str] = field(default_factory=dict)
    restarts: bool = False


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster.

    Attributes:
        environment: variables of its drivers.
        inside: for each host the words to put before a command so that it runs beside the Ray node there; none for
            `HERE`.
        log: the file with what the nodes printed while they started.
        temporary: the folder in which Ray has its files; each host has one of its own by this name.
    """

    environment: dict[str, str]
    inside: dict[int, list[str]]
    log: Path
    temporary: Path


@contextmanager
def ray_cluster(
    network: Network, nodes: Sequence[RayNode], environment: dict[str, str], *, dashboard: bool = False
) -> Iterator[Cluster]:
    """A Ray cluster for a `with` block, whose first node is the head. Drivers have to run beside one of the nodes.

    Args:
        network: has all hosts that `nodes` name.
        nodes: the nodes of the cluster.
        environment: variables of all nodes and of drivers, beside those of this process without its `RAY_` variables.
        dashboard: the head takes jobs, at `DASHBOARD_PORT`, and keeps the list of what Prometheus is to scrape.
    """
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has 107 characters at most
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Ray prints nothing after the driver's answer, and other processes on this machine do not learn of this cluster
    common = kept | ENVIRONMENT | {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_TMPDIR": temporary} | environment
    head, log = f"{network.address(nodes[0].host)}:6399", Path(temporary) / "start.log"
    running: list[subprocess.Popen[bytes]] = []
    inside: dict[int, list[str]] = {}
    try:
        for node in nodes:
            command = _start_command(network, node, head=head, temporary=temporary, dashboard=dashboard)
            running.append(_started(command, common | node.environment, log=log))
            inside[node.host] = [] if node.host == HERE else _enter(running[-1].pid)
            if len(running) == 1:
                _wait_for(head, log=log)
        yield Cluster(common | {"RAY_ADDRESS": head}, inside, log, Path(temporary))
    finally:
        for node in nodes:
            if node.host != HERE:
                network.kill(node.host)
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for_cores(n: int, *, seconds: float = 180) -> None:
    """Join the cluster, and wait until it has n CPUs. To be called in a driver."""
    deadline = time.monotonic() + seconds
    while not _is_joined(is_last_try=time.monotonic() > deadline):
        time.sleep(0.5)
    while cores() < n:
        if time.monotonic() > deadline:
            raise WorkError(f"the cluster has {cores()} of {n} CPUs after {seconds:.0f} s")
        time.sleep(0.2)


def _is_joined(*, is_last_try: bool) -> bool:
    """Join the cluster; False where the node of this host has not started yet."""
    try:
        connect()
    except InputError:
        if is_last_try:
            raise
        return False
    return True


def _start_command(network: Network, node: RayNode, *, head: str, temporary: str, dashboard: bool) -> list[str]:
    address, port = head.split(":")
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    ray += [f"--node-ip-address={network.address(node.host)}", f"--num-cpus={node.cpus}"]
    ray += [f"--object-store-memory={STORE_BYTES}"]
    if network.address(node.host) == address:
        ray += ["--head", f"--port={port}", "--ray-client-server-port=6398", f"--temp-dir={temporary}"]
        ray += [f"--include-dashboard={str(dashboard).lower()}", f"--dashboard-port={DASHBOARD_PORT}"]
        ray += [f"--dashboard-host={address}"] if dashboard else []
    else:
        ray += [f"--address={head}"]
    if node.host == HERE:
        return ray
    mounts = f"mount -t tmpfs tmpfs {shlex.quote(temporary)} && mount -t tmpfs tmpfs /dev/shm"
    # the shell stays, and collects processes whose parent has ended; it is alone in its namespace with what it starts
    again = f'while true; do kill -9 -1; sleep {RESTART_S}; "$@"; done' if node.restarts else "exit $?"
    first = ["sh", "-c", f'{mounts} && "$@"; {again}', "sh"]
    return [*network.inside(node.host), "unshare", "--mount", "--pid", "--fork", "--mount-proc", *first, *ray]


def _enter(unshare: int) -> list[str]:
    """The words before a command that make it run in the namespaces of the child of `unshare`."""
    deadline = time.monotonic() + 10
    while len(pids := descendants(unshare)) < 2:
        if time.monotonic() > deadline:
            raise WorkError("`unshare` does not start")
        time.sleep(0.02)
    return ["nsenter", f"--target={pids[1]}", "--net", "--mount", "--pid", "--wd"]


def _started(command: list[str], environment: dict[str, str], *, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _wait_for(address: str, *, log: Path, seconds: float = 120) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)
    raise WorkError(f"Ray's head does not answer at {address}: {log.read_text(errors='replace')[-2000:]}")
