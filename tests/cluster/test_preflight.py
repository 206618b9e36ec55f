"""Looking at the nodes first: a real raylet with what is wrong with nodes."""

import os
import signal
import time
from pathlib import Path

import pytest
from ray_nodes import node, raylet_pid

from uadray.cluster import preflight
from uadray.cluster.nodes import living_nodes
from uadray.storage import objects

pytestmark = pytest.mark.ray


def test_bad_nodes_are_named_and_not_waited_for(ray_cluster: None, tmp_path: Path) -> None:
    """One where uadray cannot be imported, which is then stopped as a hanging machine is."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uadray'] = None\n")
    (own,) = living_nodes()
    out = str(tmp_path / "out")
    with node({"PYTHONPATH": str(tmp_path)}) as broken:
        found = preflight.examine_nodes(out)
        assert found.keys() == {own["NodeID"], broken}
        assert found[own["NodeID"]] == []
        (problem,) = found[broken]
        assert "uadray cannot be imported (ModuleNotFoundError" in problem
        os.kill(raylet_pid(broken), signal.SIGSTOP)
        began = time.monotonic()
        found = preflight.examine_nodes(out, timeout_s=6)
        assert time.monotonic() - began < 20
        assert found == {own["NodeID"]: [], broken: ["worker: no answer within 6 s; restart Ray there"]}
    assert list(objects.list_objects(out)) == []
