"""Slides in S3, processes that copy them, and what the slide cache holds: for the tests of the slide cache."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from seaweed import SeaweedServer

from uadray.storage import objects, slide_copy

MIB = 2**20


def put(server: SeaweedServer, name: str, size: int = MIB) -> tuple[str, bytes]:
    uri, data = f"s3://{server.bucket}/cache/{name}", os.urandom(size)
    objects.write_bytes(uri, data)
    return uri, data


def before(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], *, fetch: int) -> None:
    """Do something before the `fetch`-th download of a part."""
    download, lock, done = slide_copy._download, threading.Lock(), [0]

    def fetched(*args: object, **kwargs: object) -> object:
        with lock:
            done[0] += 1
            if done[0] == fetch:
                action()
        return download(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(slide_copy, "PARTS_AT_ONCE", 1)
    monkeypatch.setattr(slide_copy, "_download", fetched)


def entries(cache_folder: Path) -> list[Path]:
    """Copies, and what is on the way to become one."""
    return sorted(path for path in cache_folder.iterdir() if not path.name.startswith("."))


def used_bytes(cache_folder: Path) -> int:
    return sum(slide_copy.slide_bytes(path) for path in entries(cache_folder))


def copy_of(path: Path) -> Path:
    """The copy that a slide's path lies in."""
    return next(above for above in path.parents if (above / "record.json").exists())


COPY = """
import sys, threading, time
from uadray.storage import slide_copy
from uadray.storage.local_copies import local_copy
fetch = slide_copy._download
def counted(*args, **kwargs):
    print("fetch", flush=True)
    time.sleep(float(sys.argv[1]))
    return fetch(*args, **kwargs)
slide_copy._download = counted
slide_copy.PARTS_AT_ONCE = 1
def stage(uri):
    with local_copy(uri) as path:
        print(path, flush=True)
threads = [threading.Thread(target=stage, args=[uri]) for uri in sys.argv[2:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def start_copy(*uris: str, delay_s: float) -> "subprocess.Popen[str]":
    """A process that stages slides, each in a thread; says `fetch` before each download, waits, and says the paths."""
    command = [sys.executable, "-c", COPY, str(delay_s), *uris]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


HOLD = """
import sys
from uadray.errors import BusyError
from uadray.storage.local_copies import local_copy
try:
    with local_copy(sys.argv[1], wait_s=30):
        print("has", flush=True)
        sys.stdin.read()
except BusyError:
    print("busy", flush=True)
"""


def start_hold(uri: str) -> "subprocess.Popen[str]":
    """A process that wants a copy, says `has` when it has it, and holds it until its standard input ends."""
    command = [sys.executable, "-c", HOLD, uri]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def put_mrxs(server: SeaweedServer, name: str, sizes: dict[str, int]) -> tuple[str, dict[str, bytes]]:
    """Something with the structure of an MRXS slide (not one that OpenSlide could open), and its files in a copy."""
    uri, data = put(server, f"{name}.mrxs", 1000)
    found = {"slide.mrxs": data}
    for file, size in sizes.items():
        found[f"slide/{file}"] = put(server, f"{name}/{file}", size)[1]
    put(server, f"{name} other/Data0000.dat", 1)
    return uri, found


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
