"""Running `uadray` as a user does: as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

UADRAY = Path(sys.executable).with_name("uadray")


def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, so that a test can kill it whole."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | (env or {})
    return subprocess.Popen(
        [str(UADRAY), *arguments], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(*arguments: str, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    process = start(*arguments, env=env)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object in the last line of standard output."""
    values: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return values
