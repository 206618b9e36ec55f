"""Why a cluster cannot be joined: real heads that are not there, want another token, or have other versions."""

import socket
import time
from pathlib import Path

import pytest
from ray_nodes import TOKEN
from seaweed import free_port

from uadray.cluster import joining
from uadray.errors import InputError

pytestmark = pytest.mark.ray

WRONG = "f" * 64


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The head's token, in the environment; no file of this user's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)


def refused(address: str, log: Path) -> str:
    """The line that is said, and within seconds."""
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        joining.check_joinable(address, log=log)
    assert time.monotonic() - began < 15  # 0.7 on an idle machine; Ray itself takes 20
    line = str(caught.value)
    assert line.startswith(f"RAY_ADDRESS={address}: ")
    assert "\n" not in line
    return line


def test_a_head_that_takes_the_token(head: tuple[str, str], token: None, tmp_path: Path) -> None:
    joining.check_joinable(head[0], log=tmp_path / "log")


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
    joining.check_joinable(head[0], log=log)
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
