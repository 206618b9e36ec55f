"""The processes of this machine, read from /proc: which descend from which, their titles, memory and CPU time."""

import os
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
READER, SCORER = "ray::Read", "ray::WatchedScorer"
"""How Ray titles a process with a read task of a stream, and one with a scoring actor."""


def descendants(pid: int) -> list[int]:
    """The ids of a process and of all that descend from it; a process that ends meanwhile is left out."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal():
            with suppress(OSError):
                fields = (_PROC / entry.name / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    pids = [pid]
    for parent in pids:  # the list grows while it is walked
        pids += children.get(parent, ())
    return pids


def title(pid: int) -> str:
    """The command line, into which Ray's workers write what they do; empty for a process that has ended."""
    with suppress(OSError):
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def titled(pid: int, start: str) -> list[int]:
    """Of a process and all that descend from it, those whose title begins with `start`."""
    return [each for each in descendants(pid) if title(each).startswith(start)]


@dataclass(frozen=True)
class Memory:
    """Bytes in RAM, each page divided among the processes that map it (Linux: PSS), so that those of all add up.

    Attributes:
        own: private memory and mapped files.
        shared: shared memory: the object store.
    """

    own: int
    shared: int


def memory(pid: int) -> Memory:
    """The memory of a process now; nothing for one that has ended."""
    sizes = _sizes(pid, "smaps_rollup")
    return Memory(sizes.get("Pss_Anon", 0) + sizes.get("Pss_File", 0), sizes.get("Pss_Shmem", 0))


def peak_rss(pid: int) -> int:
    """The most bytes in RAM that a process has had so far; 0 for one that has ended."""
    return _sizes(pid, "status").get("VmHWM", 0)


def cpu_seconds(pid: int) -> dict[int, float]:
    """CPU seconds so far of a process and of each that descends from it, by process id."""
    spent: dict[int, float] = {}
    for each in descendants(pid):
        with suppress(OSError):
            fields = (_PROC / str(each) / "stat").read_text().rpartition(")")[2].split()
            spent[each] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


class CpuMeter:
    """CPU seconds by role of this process and all that descend from it, those that have ended included.

    A thread looks at them every `EVERY_S`; what a process spends after the last look before its end is not seen.
    """

    EVERY_S = 0.25

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._roles: dict[int, str] = {os.getpid(): "driver"}
        self._ends = threading.Event()
        self._looks = threading.Thread(target=self._go_on, name="uadray-bench-cpu", daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._looks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._looks.join()

    def seconds(self) -> dict[str, float]:
        """CPU seconds so far by role; `driver` is this process. A reader is idle after a task, and stays a reader."""
        self._look()
        spent: dict[str, float] = defaultdict(float)
        for pid, seconds in list(self._seconds.items()):
            spent["reader" if self._roles[pid] == "idle" else self._roles[pid]] += seconds
        return spent

    def _go_on(self) -> None:
        while not self._ends.wait(self.EVERY_S):
            self._look()

    def _look(self) -> None:
        for pid, seconds in cpu_seconds(os.getpid()).items():
            if self._roles.get(pid, "other") in ("idle", "other"):
                self._roles[pid] = role(pid)
            self._seconds[pid] = seconds


def _sizes(pid: int, file: str) -> dict[str, int]:
    with suppress(OSError):
        lines = (_PROC / str(pid) / file).read_text().splitlines()
        pairs = (line.split(":", 1) for line in lines if line.endswith("kB"))
        return {name: int(value.split()[0]) * 1024 for name, value in pairs}
    return {}


def role(pid: int) -> str:
    """The role of a process in a Ray job: `reader`, `scorer`, `idle`, `raylet`, `gcs`, or `other`."""
    text = title(pid)
    for start, name in ((READER, "reader"), (SCORER, "scorer"), ("ray::IDLE", "idle"), ("ray::", "other")):
        if text.startswith(start):
            return name
    program = text.split(" ", 1)[0].rpartition("/")[2]
    return {"raylet": "raylet", "gcs_server": "gcs"}.get(program, "other")
