"""Commands of uadray as processes of their own, whose messages another one reads and which end when that one does.

A child says on standard output how far it is, a JSON object a line, the last of them its answer. Its standard input is
a pipe that says nothing: when it closes, the process that began the child has ended, however it did, and so does the
child.
"""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

UADRAY = "from uadray.cli import main; main()"

GRACE_S = 10.0
"""From asking a process to end until it is ended."""


class Message(NamedTuple):
    """What a child has said: a JSON object, or, with a `status`, that it has ended."""

    name: str
    said: dict[str, Any]
    status: int | None = None


class Child:
    """A command that runs. Its messages go into a queue; what it warns of, into this process's log."""

    def __init__(self, name: str, arguments: Sequence[str], messages: "queue.Queue[Message]") -> None:
        self.name = name
        self._messages = messages
        self._errors: deque[str] = deque(maxlen=20)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", UADRAY, *arguments], text=True, errors="replace", start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._follower = threading.Thread(target=self._follow, name=f"uadray-{name}", daemon=True)
        self._follower.start()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def ask(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def end(self, within_s: float) -> None:
        """Wait until it has ended, at the longest so many seconds; then end it."""
        try:
            self._process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._follower.join(timeout=5)

    def why(self) -> str:
        """Why it has failed, in a sentence."""
        status = self._process.returncode
        said = next((line for line in reversed(self._errors) if line.startswith("uadray: ")), "")
        if said:
            return said.removeprefix("uadray: ")
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        return f"its process ended with status {status}{': ' + self._errors[-1] if self._errors else ''}"

    def _follow(self) -> None:
        """In a thread of its own: pass on what it says until it has ended."""
        errors = threading.Thread(target=self._warnings, daemon=True)
        errors.start()
        for line in self._process.stdout or ():
            with suppress(ValueError):
                self._messages.put(Message(self.name, json.loads(line)))
        status = self._process.wait()
        errors.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._messages.put(Message(self.name, {}, status))

    def _warnings(self) -> None:
        for line in self._process.stderr or ():
            record = _record(line)
            if record is None:
                self._errors.append(line.strip())
            elif record.get("level") not in ("debug", "info"):
                log.warning("%s: %s", self.name, record.get("message"))


def end_all(children: Sequence[Child]) -> None:
    """Ask all to end; after `GRACE_S` end those that have not."""
    until = time.monotonic() + GRACE_S
    for child in children:
        child.ask()
    for child in children:
        child.end(until - time.monotonic())


def end_with_parent() -> None:
    """In a child: end this process when that which began it ends, by closing standard input."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="uadray-parent", daemon=True).start()


def _record(line: str) -> dict[str, Any] | None:
    """A line of the log, see `uadray.commands.console.JsonFormatter`; None where it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
