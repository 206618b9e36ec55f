"""Real processes of Ray that tests start beside their own: a head that asks for a token, and nodes with faults."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from seaweed import free_port

from uadray.cluster.nodes import living_nodes

RAY = Path(sys.executable).with_name("ray")
TOKEN = "0123456789abcdef" * 4


@contextmanager
def token_head() -> Iterator[tuple[str, str]]:
    """A head started by `ray start` in token mode, with a folder of its own; its address and that folder."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has 107 characters at most
    address = f"127.0.0.1:{free_port()}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    options = [f"--port={address.rpartition(':')[2]}", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--block"]
    ports = [f"--ray-client-server-port={free_port()}", "--include-dashboard=false", "--object-store-memory=80000000"]
    process = subprocess.Popen(
        [str(RAY), "start", "--head", *options, *ports], env=kept | mine,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not list(Path(folder).rglob("ray_current_cluster")):
            assert process.poll() is None, "Ray's head did not start"
            assert time.monotonic() < deadline, "Ray's head did not start in time"
            time.sleep(0.1)
        yield address, folder
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def node(environment: dict[str, str], *, inside: Sequence[str] = ()) -> Iterator[str]:
    """A raylet beside the session's own, without CPUs, so that nobody else's work goes there; its id.

    Args:
        environment: variables that it has beside those of this process.
        inside: the words to put before its command, as of `unshare`.
    """
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has 107 characters at most
    address, known = ray.get_runtime_context().gcs_address, {node["NodeID"] for node in living_nodes()}
    options = ["--num-cpus=0", "--object-store-memory=80000000", f"--temp-dir={folder}", "--block"]
    process = subprocess.Popen(
        [*inside, str(RAY), "start", f"--address={address}", *options], env=os.environ | environment,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        new: set[str] = set()
        while not new:
            assert process.poll() is None, "the node did not start"
            assert time.monotonic() < deadline, "the node did not come"
            time.sleep(0.1)
            new = {node["NodeID"] for node in living_nodes()} - known
        yield new.pop()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder)


def raylet_pid(node_id: str) -> int:
    """The process of a node of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if "raylet/raylet" in command and node_id in command:
            return int(folder.name)
    raise AssertionError(f"no raylet {node_id}")
