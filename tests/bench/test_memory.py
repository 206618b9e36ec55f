"""Memory is counted by what processes are there for."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from uadray.bench import memory, processes


@pytest.fixture
def child() -> Iterator[int]:
    """A process with Ray's title of a reader, 100 MB and a child of its own."""
    code = "import subprocess, time; data = bytearray(b'x') * 10**8; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    process = subprocess.Popen(["ray::Read", "-c", code], executable=sys.executable)
    while len(processes.descendants(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    yield process.pid
    subprocess.run(["pkill", "-P", str(process.pid)], check=True)
    process.kill()
    process.wait()


def test_memory_is_counted_by_what_processes_are_for(child: int) -> None:
    assert processes.role(child) == "reader"
    assert processes.titled(os.getpid(), processes.READER) == [child]
    assert processes.peak_rss(child) > 10**8
    sizes = memory._by_role(os.getpid())
    assert 1e8 < sizes["reader"] < 2e8
    assert sizes["job"] == sum(size for name, size in sizes.items() if name != "job")
