"""Why a Ray cluster cannot be joined, in one line and within seconds.

Ray itself tries for half a minute, fills the terminal, and ends a process that has no token. So the address is tried
first, then the token, and then another process (`uadray.cluster.probe`) asks the cluster.
"""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from uadray.errors import InputError

CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 60.0
"""The probe takes half a second on an idle machine. Of an address that never answers Ray itself waits 40 s."""

GET_TOKEN = "`ray get-auth-token` prints it on the head"  # noqa: S105 - how to get one
PLACES = "~/.ray/auth_token, RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names"


def token_mode() -> bool:
    """Whether this process is to show a token."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def token_file() -> Path | None:
    """The file that Ray takes its token from; None where the token itself is in `RAY_AUTH_TOKEN`."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def check_joinable(address: str, *, log: Path) -> None:
    """Make sure that there is a cluster, that it takes our token, and that its versions are ours.

    Args:
        address: `host:port` of its head, or `auto`.
        log: a file for what Ray prints.

    Raises:
        InputError: one of these is not so.
    """
    setting = f"RAY_ADDRESS={address}"
    if address != "auto":
        _check_connection(address, setting)
    _check_token_file(setting)
    if "://" in address:
        return  # the probe speaks to a head, and this is a proxy before one
    answer = _probe(address, log)
    problem = answer["problem"]
    if problem == "silent":
        raise InputError(
            f"{setting}: what answers there is not the head of a Ray cluster, or it hangs; expected the port of "
            f"`ray start --head --port=...` (6379), not that of the dashboard; Ray's own words are in {log}"
        )
    if problem == "token":
        raise InputError(f"{setting}: {_token_problem()} ({GET_TOKEN}); Ray's own words are in {log}")
    _check_versions(answer, setting)
    if problem == "no_node":
        raise InputError(
            f"{setting}: no node of that cluster runs on this machine; type the command on one, hand it over with "
            f"`ray job submit`, or make this machine one: `ray start --address={address} --num-cpus=0`"
        )


def _check_connection(address: str, setting: str) -> None:
    """Make sure that something listens there."""
    host, _, port = address.partition("://")[2].partition(":") if "://" in address else address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"{setting}: expected HOST:PORT, as in 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{setting}: nothing answers there ({error}); check that Ray's head runs (`ray start --head --port={port}`)"
            ", and that this machine may reach it"
        ) from error


def _check_token_file(setting: str) -> None:
    """Make sure that a token file that Ray will read can be read."""
    file = token_file()
    if token_mode() and file is not None and not os.access(file, os.R_OK):
        raise InputError(
            f"{setting}: RAY_AUTH_MODE is token, and {file} {'cannot be read' if file.exists() else 'does not exist'}; "
            f"put the cluster's token into {PLACES} ({GET_TOKEN})"
        )


def _token_problem() -> str:
    if not token_mode():
        return f"the cluster asks for a token: set RAY_AUTH_MODE=token, and put the cluster's token into {PLACES}"
    return f"the token in {token_file() or 'RAY_AUTH_TOKEN'} is not the cluster's; put that there"


def _check_versions(answer: dict[str, Any], setting: str) -> None:
    """Make sure that the cluster has our versions of Ray and Python. One that it does not tell is taken for ours."""
    ours = {"ray_version": importlib.metadata.version("ray"), "python_version": platform.python_version()}
    if any(_compared(name, answer.get(name) or ours[name]) != _compared(name, ours[name]) for name in ours):
        raise InputError(
            f"{setting}: the cluster has Ray {answer['ray_version']} and Python {answer['python_version']}, this "
            f"machine Ray {ours['ray_version']} and Python {ours['python_version']}; install the same on all"
        )


def _compared(name: str, number: str) -> str:
    """The part of a version that Ray compares: all of it, or of Python's without the last number by Ray's setting."""
    minor = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor"
    return number.rpartition(".")[0] if minor and name == "python_version" else number


def _probe(address: str, log: Path) -> dict[str, Any]:
    """The answer of `uadray.cluster.probe`; its `problem` is `error` where that process itself fails."""
    command = [sys.executable, "-m", "uadray.cluster.probe", address]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output,
                timeout=PROBE_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"problem": "silent"}
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        answer = {"problem": "error"}
    return answer
