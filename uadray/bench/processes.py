"""What Linux says of this machine's processes: who descends from whom, their titles, their memory. From /proc alone."""

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
READER, SCORER = "ray::Read", "ray::MapWorker"
"""How Ray titles a process that runs a read task of Ray Data, and one that holds an actor of its pool."""


def descendants(pid: int) -> list[int]:
    """A process and all below it; what ends meanwhile is left out."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal():
            with suppress(OSError):
                fields = (_PROC / entry.name / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:  # grows while it runs
        found += children.get(each, ())
    return found


def title(pid: int) -> str:
    """The command line; Ray's workers write there what they are doing. Empty for one that has ended."""
    with suppress(OSError):
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def titled(pid: int, start: str) -> list[int]:
    """Of a process and all below it those whose title starts so."""
    return [each for each in descendants(pid) if title(each).startswith(start)]


@dataclass(frozen=True)
class Memory:
    """Bytes in RAM.

    Attributes:
        own: private memory and mapped files of the processes, summed (a library that five processes map counts five
            times: more than there is, never less).
        shared: of the process that maps most of it, shared memory: the object store.
    """

    own: int
    shared: int


def memory(pids: list[int]) -> Memory:
    """Memory of some processes now."""
    own, shared = 0, 0
    for pid in pids:
        sizes = _sizes(pid)
        own += sizes.get("RssAnon", 0) + sizes.get("RssFile", 0)
        shared = max(shared, sizes.get("RssShmem", 0))
    return Memory(own, shared)


def peak_rss(pid: int) -> int:
    """The most bytes in RAM that one process has ever had; 0 for one that has ended."""
    return _sizes(pid).get("VmHWM", 0)


def cpu_seconds(pid: int) -> dict[int, float]:
    """CPU time of a process and of each below it, so far, by process id."""
    spent: dict[int, float] = {}
    for each in descendants(pid):
        with suppress(OSError):
            fields = (_PROC / str(each) / "stat").read_text().rpartition(")")[2].split()
            spent[each] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def cpu_by_role(pid: int, before: dict[int, float]) -> dict[str, float]:
    """CPU time since `before` by role, of the processes that are there now; `pid` itself is the `driver`."""
    spent: dict[str, float] = defaultdict(float)
    for each, seconds in cpu_seconds(pid).items():
        spent["driver" if each == pid else role(each)] += seconds - before.get(each, 0.0)
    return spent


def _sizes(pid: int) -> dict[str, int]:
    with suppress(OSError):
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
        pairs = (line.split(":", 1) for line in lines if line.endswith("kB"))
        return {name: int(value.split()[0]) * 1024 for name, value in pairs}
    return {}


def role(pid: int) -> str:
    """What a process of a Ray job is there for: `reader`, `scorer`, `idle`, `raylet`, `gcs`, or other parts of Ray."""
    text = title(pid)
    for start, name in ((READER, "reader"), (SCORER, "scorer"), ("ray::IDLE", "idle"), ("ray::", "other")):
        if text.startswith(start):
            return name
    program = text.split(" ", 1)[0].rpartition("/")[2]
    return {"raylet": "raylet", "gcs_server": "gcs"}.get(program, "other")
