"""Joining a cluster: real heads that are not there, want another token, or were not named."""

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from seaweed import free_port

from uadray.cluster import joining
from uadray.errors import InputError

pytestmark = pytest.mark.ray

TOKEN = "0123456789abcdef" * 4
WRONG = "f" * 64


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, str]]:
    """A head started by `ray start` in token mode, with a folder of its own; its address and that folder."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has 107 characters at most
    address = f"127.0.0.1:{free_port()}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    options = [f"--port={address.rpartition(':')[2]}", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--block"]
    ports = [f"--ray-client-server-port={free_port()}", "--include-dashboard=false", "--object-store-memory=80000000"]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", "--head", *options, *ports], env=kept | mine,
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


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The head's token, in the environment; no file of this user's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)


def refused(address: str, log: Path) -> str:
    """The line that is said, and within five seconds."""
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        joining.look_first(address, log=log)
    assert time.monotonic() - began < 15  # 0.7 on an idle machine; Ray itself takes 20
    line = str(caught.value)
    assert line.startswith(f"RAY_ADDRESS={address}: ")
    assert "\n" not in line
    return line


def test_a_head_that_takes_the_token(head: tuple[str, str], token: None, tmp_path: Path) -> None:
    joining.look_first(head[0], log=tmp_path / "log")
    found = joining._probe(head[0], tmp_path / "log")  # the private names of Ray that it uses still mean the same
    assert found == {
        "problem": "", "ray_version": ray.__version__, "python_version": platform.python_version(),
    }  # fmt: skip


def test_a_token_that_is_wrong_or_missing_is_named(
    head: tuple[str, str], token: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("RAY_AUTH_TOKEN", WRONG)
    line = refused(head[0], log)
    assert "the token in RAY_AUTH_TOKEN is not the cluster's" in line
    assert "`ray get-auth-token` prints it on the head" in line
    assert "Unauthenticated" in log.read_text()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    line = refused(head[0], log)
    assert f"RAY_AUTH_MODE is token, and {tmp_path}/.ray/auth_token does not exist" in line
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    joining.look_first(head[0], log=log)
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert "the cluster asks for a token: set RAY_AUTH_MODE=token" in refused(head[0], log)


def test_other_versions(head: tuple[str, str], token: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.10.1")
    line = refused(head[0], tmp_path / "log")
    assert "the cluster has Ray 2." in line
    assert "and Python 3.10.1; install the same on all" in line


def test_nobody_there(tmp_path: Path) -> None:
    assert "nothing answers there" in refused(f"127.0.0.1:{free_port()}", tmp_path / "log")
    assert "nothing answers there" in refused("no-such-host.invalid:6379", tmp_path / "log")
    assert "expected HOST:PORT" in refused("10.0.0.5", tmp_path / "log")


def test_something_else_there(token: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(joining, "PROBE_TIMEOUT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = refused(f"127.0.0.1:{silent.getsockname()[1]}", tmp_path / "log")
    assert "what answers there is not the head of a Ray cluster" in line


ALONE = """
import os, ray
from uadray.cluster.connection import connect, cores
connect()
print(cores(), ray.get_runtime_context().gcs_address)
"""


def test_a_cluster_that_was_not_named_is_not_joined(head: tuple[str, str], tmp_path: Path) -> None:
    address, folder = head
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"RAY_TMPDIR": folder, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=kept | own, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_cpus, where = done.stdout.split()
    assert int(n_cpus) == max(2, os.cpu_count() or 2)
    assert where != address
    assert done.stderr == ""
    assert list(tmp_path.glob("uadray-ray-*.log")) == []
