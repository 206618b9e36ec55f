"""Commands as processes: what they say arrives, why they failed is told, and none outlives what began it."""

import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uadray.commands import children
from uadray.commands.children import Child, Message, end_all

SAYS = """
import json, logging, sys
from uadray.commands import console
console.set_up_logging()
print(json.dumps({"done": 1}), flush=True)
print("no JSON", flush=True)
logging.getLogger("uadray.x").warning("slow disk")
logging.getLogger("uadray.x").info("nothing")
print("uadray: no more disk (log: /x)", file=sys.stderr)
sys.exit(1)
"""

SLEEPS = """
import time
from uadray.commands.children import end_with_parent
end_with_parent()
print('{"up": 1}', flush=True)
time.sleep(60)
"""

PARENT = f"""
import queue, time
from uadray.commands import children
children.UADRAY = {SLEEPS!r}
messages = queue.Queue()
child = children.Child("a", [], messages)
assert messages.get(timeout=30).said == {{"up": 1}}
print(child.pid, flush=True)
time.sleep(60)
"""


def _all_of(child: Child, messages: "queue.Queue[Message]") -> list[Message]:
    said = [messages.get(timeout=30)]
    while said[-1].status is None:
        said.append(messages.get(timeout=30))
    return said


def test_what_a_child_says(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(children, "UADRAY", SAYS)
    messages: queue.Queue[Message] = queue.Queue()
    child = Child("a", [], messages)
    assert _all_of(child, messages) == [Message("a", {"done": 1}), Message("a", {}, 1)]
    assert child.why() == "no more disk (log: /x)"
    assert [record.getMessage() for record in caplog.records] == ["a: slow disk"]


def test_one_that_is_killed_and_one_that_is_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "UADRAY", SLEEPS)
    messages: queue.Queue[Message] = queue.Queue()
    both = [Child(name, [], messages) for name in ("a", "b")]
    for _ in both:
        assert messages.get(timeout=30).said == {"up": 1}
    os.kill(both[0].pid, signal.SIGKILL)
    end_all(both)
    assert [child.why() for child in both] == [
        "its process was ended by SIGKILL", "its process was ended by SIGTERM",
    ]  # fmt: skip


def test_no_child_outlives_what_began_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert _runs(pid)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
