"""Starting Ray on this machine, beside a cluster that was not named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ALONE = """
import os, ray
from uadray.bench.processes import descendants, title
from uadray.cluster.connection import NOT_NEEDED, connect, cores
connect()
titles = [title(pid) for pid in descendants(os.getpid())]
started = [name for name in ("raylet", "gcs_server", *NOT_NEEDED) if any(name in each for each in titles)]
print(cores(), ray.get_runtime_context().gcs_address, ",".join(started))
"""


def test_a_cluster_that_was_not_named_is_not_joined_and_ours_is_small(head: tuple[str, str], tmp_path: Path) -> None:
    address, folder = head
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"RAY_TMPDIR": folder, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=kept | own, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_cpus, where, started = done.stdout.split()
    assert int(n_cpus) == max(2, os.cpu_count() or 2)
    assert where != address
    assert started == "raylet,gcs_server"  # and nothing that nobody asks
    assert done.stderr == ""
    assert list(tmp_path.glob("uadray-ray-*.log")) == []
