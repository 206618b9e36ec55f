"""Starting Ray on this machine, beside a cluster that was not named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ALONE = """
import os, ray
from uadray.cluster.connection import connect, cores
connect()
print(cores(), ray.get_runtime_context().gcs_address)
"""


def test_a_cluster_that_was_not_named_is_not_joined(head: tuple[str, str], tmp_path: Path) -> None:
    address, folder = head
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"RAY_TMPDIR": folder, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=kept | own, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_cpus, where = done.stdout.split()
    assert int(n_cpus) == max(2, os.cpu_count() or 2)
    assert where != address
    assert done.stderr == ""
    assert list(tmp_path.glob("uadray-ray-*.log")) == []
