"""Why a Ray cluster cannot be joined, found out before Ray tries for half a minute and fills the terminal."""

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
"""Half a second on an idle machine; Ray itself gives up an address that keeps silent after 40."""

GET_TOKEN = "`ray get-auth-token` prints it on the head"  # noqa: S105 - how to get one
PLACES = "~/.ray/auth_token, RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names"


def token_mode() -> bool:
    """Whether this process is to show a token."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def token_file() -> Path | None:
    """The file that Ray takes its token from; None where the token itself stands in `RAY_AUTH_TOKEN`."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def look_first(address: str, *, log: Path) -> None:
    """Make sure that a cluster is there, that it takes our token, and that its versions are ours.

    Args:
        address: `host:port` of its head, or `auto`.
        log: where Ray's own words go.

    Raises:
        InputError: something of that is not so.
    """
    where = f"RAY_ADDRESS={address}"
    if address != "auto":
        _connect(address, where)
    file = token_file()
    if token_mode() and file is not None and not os.access(file, os.R_OK):
        raise InputError(
            f"{where}: RAY_AUTH_MODE is token, and {file} {'cannot be read' if file.exists() else 'does not exist'}; "
            f"put the cluster's token into {PLACES} ({GET_TOKEN})"
        )
    if "://" in address:
        return
    found = _probe(address, log)
    if found["problem"] == "silent":
        raise InputError(
            f"{where}: what answers there is not the head of a Ray cluster, or it hangs; expected the port of "
            f"`ray start --head --port=...` (6379), not that of the dashboard; Ray's own words are in {log}"
        )
    if found["problem"] == "token":
        raise InputError(f"{where}: {_token_problem(file)} ({GET_TOKEN}); Ray's own words are in {log}")
    mine = {"ray_version": importlib.metadata.version("ray"), "python_version": platform.python_version()}
    if any(_compared(name, found.get(name) or mine[name]) != _compared(name, mine[name]) for name in mine):
        raise InputError(
            f"{where}: the cluster has Ray {found['ray_version']} and Python {found['python_version']}, this machine "
            f"Ray {mine['ray_version']} and Python {mine['python_version']}; install the same on all"
        )
    if found["problem"] == "no_node":
        raise InputError(
            f"{where}: no node of that cluster runs on this machine; type the command on one, hand it over with "
            f"`ray job submit`, or make this machine one: `ray start --address={address} --num-cpus=0`"
        )


def _compared(name: str, number: str) -> str:
    """What Ray compares: all of a version, unless its setting says that the last number of Python's may differ."""
    minor = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor"
    return number.rpartition(".")[0] if minor and name == "python_version" else number


def _connect(address: str, where: str) -> None:
    """Whether anything listens there."""
    host, _, port = address.partition("://")[2].partition(":") if "://" in address else address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"{where}: expected HOST:PORT, as in 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{where}: nothing answers there ({error}); check that Ray's head runs (`ray start --head --port={port}`), "
            "and that this machine may reach it"
        ) from error


def _token_problem(file: Path | None) -> str:
    if not token_mode():
        return f"the cluster asks for a token: set RAY_AUTH_MODE=token, and put the cluster's token into {PLACES}"
    return f"the token in {file or 'RAY_AUTH_TOKEN'} is not the cluster's; put that there"


def _probe(address: str, log: Path) -> dict[str, Any]:
    """Ask in another process; empty of problems where that finds none, or cannot tell."""
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
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        found = {"problem": "error"}
    return found
