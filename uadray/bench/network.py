"""Several hosts on this machine, for benchmarks: network namespaces on a bridge, and Ray's nodes in them.

Each namespace has an address of its own; a Ray node in one also has its own processes, its own /dev/shm and its own
folder for Ray's files: Ray finds the node of its host by these. All traffic stays on the bridge. Hosts can be killed,
unplugged, and kept from reaching one another.

Needs root, `ip` (Debian: iproute2) and `unshare`.
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

from uadray.bench.processes import descendants
from uadray.cluster.connection import ENVIRONMENT, connect, cores
from uadray.errors import WorkError

HERE = -1
"""Number of this machine among the hosts."""

STORE_BYTES = 100 * 2**20
"""Of a Ray node's object store."""


def what_is_missing() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "not root: network namespaces cannot be made"
    tools = [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} missing (Debian: apt-get install iproute2 util-linux)"
    probe = subprocess.run(["ip", "link", "add", f"{_prefix()}p", "type", "bridge"], capture_output=True, check=False)
    quietly("ip", "link", "del", f"{_prefix()}p")
    return "" if probe.returncode == 0 else f"no bridge can be made here: {probe.stderr.decode().strip()}"


@dataclass
class Network:
    """A bridge with this machine on it, and namespaces behind it.

    Attributes:
        prefix: of the names of bridge, links and namespaces.
        subnet: first three numbers of their addresses; this machine is `.1`, host i is `.(i + 2)`.
        hosts: names of the namespaces.
    """

    prefix: str
    subnet: str
    hosts: list[str] = field(default_factory=list)

    def grow(self, n: int) -> None:
        """Make namespaces until there are n."""
        while len(self.hosts) < n:
            i = len(self.hosts)
            name = f"{self.prefix}n{i}"
            self.hosts.append(name)
            do("ip", "netns", "add", name)
            do("ip", "link", "add", self._link(i), "type", "veth", "peer", "name", "eth0", "netns", name)
            do("ip", "link", "set", self._link(i), "up")
            self.plug_in(i)
            do("ip", "-n", name, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                do("ip", "-n", name, "link", "set", device, "up")

    def address(self, host: int) -> str:
        """Of host i; of this machine for `HERE`."""
        return f"{self.subnet}.{host + 2}"

    def inside(self, host: int) -> list[str]:
        """What to write before a command for it to run on a host."""
        return ["ip", "netns", "exec", self.hosts[host]]

    def pids(self, host: int) -> list[int]:
        """The processes on a host."""
        return [int(pid) for pid in do("ip", "netns", "pids", self.hosts[host]).split()]

    def kill(self, host: int) -> None:
        """Signal 9 to every process on a host, until there is none."""
        while pids := self.pids(host):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def unplug(self, host: int) -> None:
        """Cut a host off: what is sent to it or by it is lost without a word."""
        do("ip", "link", "set", self._link(host), "nomaster")

    def plug_in(self, host: int) -> None:
        """Connect a host to the bridge, again or for the first time."""
        do("ip", "link", "set", self._link(host), "master", f"{self.prefix}b")

    def block(self, host: int, other: int) -> None:
        """Nothing that a host sends to another arrives from now on, and nobody says so: it goes to no card there is."""
        nowhere = ["lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent"]
        do("ip", "-n", self.hosts[host], "neigh", "replace", self.address(other), *nowhere)

    def unblock(self, host: int, other: int) -> None:
        """Undo `block`."""
        quietly("ip", "-n", self.hosts[host], "neigh", "del", self.address(other), "dev", "eth0")

    def _link(self, host: int) -> str:
        return f"{self.prefix}v{host}"


@contextmanager
def made_network() -> Iterator[Network]:
    """A network that is gone afterwards, with all that runs in it."""
    network = Network(_prefix(), f"10.77.{os.getpid() % 250 + 1}")
    bridge = f"{network.prefix}b"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what follows `finally` is done
    try:
        do("ip", "link", "add", bridge, "type", "bridge")
        do("ip", "addr", "add", f"{network.address(HERE)}/24", "dev", bridge)
        do("ip", "link", "set", bridge, "up")
        yield network
    finally:
        for i, name in enumerate(network.hosts):
            with suppress(WorkError):
                network.kill(i)
            quietly("ip", "netns", "del", name)
            quietly("ip", "link", "del", f"{network.prefix}v{i}")
        quietly("ip", "link", "del", bridge)
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class RayNode:
    """One node of a Ray cluster.

    Attributes:
        host: where it runs.
        cpus: that it says it has.
        environment: what is other there than on all nodes.
    """

    host: int
    cpus: int
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster.

    Attributes:
        environment: of its drivers.
        inside: by host what to write before a command for it to run beside the Ray node there; nothing for `HERE`.
        log: what starting the nodes said.
    """

    environment: dict[str, str]
    inside: dict[int, list[str]]
    log: Path


@contextmanager
def ray_cluster(network: Network, nodes: Sequence[RayNode], environment: dict[str, str]) -> Iterator[Cluster]:
    """Start Ray, the first node as head; it is gone afterwards. Drivers have to run beside one of the nodes.

    Args:
        network: with all hosts that are named.
        nodes: of the cluster.
        environment: of all nodes and of drivers, beside this process's own without its `RAY_` variables.
    """
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has 107 characters at most
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # no message of Ray's after the driver's answer (see `console`), no word to other processes here of this cluster
    common = kept | ENVIRONMENT | {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_TMPDIR": temporary} | environment
    head, log = f"{network.address(nodes[0].host)}:6399", Path(temporary) / "start.log"
    running: list[subprocess.Popen[bytes]] = []
    inside: dict[int, list[str]] = {}
    try:
        for node in nodes:
            command = _start_command(network, node, head=head, temporary=temporary)
            running.append(_started(command, common | node.environment, log=log))
            inside[node.host] = [] if node.host == HERE else _enter(running[-1].pid)
            if len(running) == 1:
                _wait_for(head, log=log)
        yield Cluster(common | {"RAY_ADDRESS": head}, inside, log)
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
    """In a driver: join the cluster, and wait until it has n CPUs."""
    connect()
    deadline = time.monotonic() + seconds
    while cores() < n:
        if time.monotonic() > deadline:
            raise WorkError(f"the cluster has {cores()} of {n} CPUs after {seconds:.0f} s")
        time.sleep(0.2)


def do(*command: str) -> str:
    """Run a command; its output.

    Raises:
        WorkError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def quietly(*command: str) -> None:
    """Run a command, whether it succeeds or not."""
    subprocess.run(command, capture_output=True, check=False)


def _start_command(network: Network, node: RayNode, *, head: str, temporary: str) -> list[str]:
    address, port = head.split(":")
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    ray += [f"--node-ip-address={network.address(node.host)}", f"--num-cpus={node.cpus}"]
    ray += [f"--object-store-memory={STORE_BYTES}"]
    if network.address(node.host) == address:
        ray += ["--head", f"--port={port}", "--include-dashboard=false", "--ray-client-server-port=6398"]
        ray += [f"--temp-dir={temporary}"]
    else:
        ray += [f"--address={head}"]
    if node.host == HERE:
        return ray
    mounts = f"mount -t tmpfs tmpfs {shlex.quote(temporary)} && mount -t tmpfs tmpfs /dev/shm"
    first = ["sh", "-c", f'{mounts} && "$@"; exit $?', "sh"]  # stays, to take leave of processes whose parent has ended
    return [*network.inside(node.host), "unshare", "--mount", "--pid", "--fork", "--mount-proc", *first, *ray]


def _enter(unshare: int) -> list[str]:
    """A command that runs another where the child of `unshare` does."""
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


def _prefix() -> str:
    """Of interfaces, whose names have 15 characters at most."""
    return f"ua{os.getpid() % 10**7}"
