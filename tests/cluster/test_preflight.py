"""Looking at the nodes first: a real raylet with what is wrong with nodes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import ray

from uadray.cluster import preflight
from uadray.storage import objects

pytestmark = pytest.mark.ray

RAY = Path(sys.executable).with_name("ray")


@contextmanager
def node(environment: dict[str, str]) -> Iterator[str]:
    """A raylet beside the session's own, without CPUs, so that nobody else's work goes there; its id."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has 107 characters at most
    address, known = ray.get_runtime_context().gcs_address, {node["NodeID"] for node in preflight.living_nodes()}
    options = ["--num-cpus=0", "--object-store-memory=80000000", f"--temp-dir={folder}", "--block"]
    process = subprocess.Popen(
        [str(RAY), "start", f"--address={address}", *options], env=os.environ | environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        new: set[str] = set()
        while not new:
            assert process.poll() is None, "the node did not start"
            assert time.monotonic() < deadline, "the node did not come"
            time.sleep(0.1)
            new = {node["NodeID"] for node in preflight.living_nodes()} - known
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


def test_bad_nodes_are_named_and_not_waited_for(ray_cluster: None, tmp_path: Path) -> None:
    """One where uadray cannot be imported, which is then stopped as a hanging machine is."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uadray'] = None\n")
    (own,) = preflight.living_nodes()
    out = str(tmp_path / "out")
    with node({"PYTHONPATH": str(tmp_path)}) as broken:
        found = preflight.examine_nodes(out)
        assert found.keys() == {own["NodeID"], broken}
        assert found[own["NodeID"]] == []
        (problem,) = found[broken]
        assert "uadray cannot be imported (ModuleNotFoundError" in problem
        os.kill(raylet_pid(broken), signal.SIGSTOP)
        began = time.monotonic()
        found = preflight.examine_nodes(out, timeout_s=6)
        assert time.monotonic() - began < 20
        assert found == {own["NodeID"]: [], broken: ["worker: no answer within 6 s; restart Ray there"]}
    assert list(objects.list_objects(out)) == []
