"""The processes of this machine, read from /proc: which descend from which, their titles, memory and CPU time."""

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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


def cpu_by_role(pid: int, before: dict[int, float]) -> dict[str, float]:
    """CPU seconds since `before` by role, of the processes that run now; `pid` itself is the `driver`."""
    spent: dict[str, float] = defaultdict(float)
    for each, seconds in cpu_seconds(pid).items():
        spent["driver" if each == pid else role(each)] += seconds - before.get(each, 0.0)
    return spent


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
