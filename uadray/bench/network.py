"""Several hosts on this machine, for benchmarks: network namespaces on a bridge.

Each namespace has an address of its own, and all traffic stays on the bridge. Hosts can be killed, unplugged, cut off
by a firewall, and kept from reaching one another.

Needs root, `ip` (Debian: iproute2) and `unshare`; a firewall needs `iptables`.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from uadray.errors import WorkError

HERE = -1
"""The number that stands for this machine among the hosts."""

FIREWALL = (("INPUT", "-i"), ("OUTPUT", "-o"))
"""Chains of iptables, and how each names the card that it is about."""


def what_is_missing(*more_tools: str) -> str:
    """Why namespaces cannot be made on this machine, or which of other tools it lacks; empty where all is there."""
    if os.geteuid() != 0:
        return "not root: network namespaces cannot be made"
    tools = [tool for tool in ("ip", "unshare", "nsenter", "mount", *more_tools) if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} missing (Debian: apt-get install {' '.join(('iproute2 util-linux', *more_tools))})"
    probe = subprocess.run(["ip", "link", "add", f"{_prefix()}p", "type", "bridge"], capture_output=True, check=False)
    quietly("ip", "link", "del", f"{_prefix()}p")
    return "" if probe.returncode == 0 else f"no bridge can be made here: {probe.stderr.decode().strip()}"


@dataclass
class Network:
    """A bridge with this machine on it, and namespaces behind it.

    Attributes:
        prefix: how the names of bridge, links and namespaces begin.
        subnet: first three numbers of all addresses; this machine is `.1`, host i is `.(i + 2)`.
        hosts: names of the namespaces.
    """

    prefix: str
    subnet: str
    hosts: list[str] = field(default_factory=list)

    def grow(self, n: int) -> None:
        """Add hosts until there are n."""
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
        """The address of host i, or of this machine for `HERE`."""
        return f"{self.subnet}.{host + 2}"

    def inside(self, host: int) -> list[str]:
        """The words to put before a command so that it runs on a host."""
        return ["ip", "netns", "exec", self.hosts[host]]

    def pids(self, host: int) -> list[int]:
        """The ids of the processes on a host."""
        return [int(pid) for pid in do("ip", "netns", "pids", self.hosts[host]).split()]

    def kill(self, host: int) -> None:
        """Send signal 9 to all processes on a host, until none is left."""
        while pids := self.pids(host):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def unplug(self, host: int) -> None:
        """Cut a host off: what is sent to it or by it is lost, and no error is reported."""
        do("ip", "link", "set", self._link(host), "nomaster")

    def plug_in(self, host: int) -> None:
        """Connect a host to the bridge, again or for the first time."""
        do("ip", "link", "set", self._link(host), "master", f"{self.prefix}b")

    def drop(self, host: int) -> None:
        """Cut a host off by its firewall, which drops what comes in and what goes out. Needs `iptables`."""
        for chain, way in FIREWALL:
            do(*self.inside(host), "iptables", "-I", chain, way, "eth0", "-j", "DROP")

    def undrop(self, host: int) -> None:
        """Undo `drop`."""
        for chain, way in FIREWALL:
            quietly(*self.inside(host), "iptables", "-D", chain, way, "eth0", "-j", "DROP")

    def block(self, host: int, other: int) -> None:
        """Lose all that a host sends to another, without an error: it is addressed to a card that does not exist."""
        nowhere = ["lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent"]
        do("ip", "-n", self.hosts[host], "neigh", "replace", self.address(other), *nowhere)

    def unblock(self, host: int, other: int) -> None:
        """Undo `block`."""
        quietly("ip", "-n", self.hosts[host], "neigh", "del", self.address(other), "dev", "eth0")

    def _link(self, host: int) -> str:
        return f"{self.prefix}v{host}"


@contextmanager
def made_network() -> Iterator[Network]:
    """A network for a `with` block, at whose end it is removed with all that runs in it."""
    network = Network(_prefix(), f"10.77.{os.getpid() % 250 + 1}")
    bridge = f"{network.prefix}b"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the `finally` below is reached
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


def do(*command: str) -> str:
    """Run a command and return its standard output.

    Raises:
        WorkError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def quietly(*command: str) -> None:
    """Run a command and ignore its failure."""
    subprocess.run(command, capture_output=True, check=False)


def _prefix() -> str:
    """How the names of interfaces begin, which have 15 characters at most."""
    return f"ua{os.getpid() % 10**7}"
