"""Looking at the nodes first: a real raylet with what is wrong with nodes."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from ray_nodes import node, raylet_pid

import uadray
from uadray.bench.network import what_is_missing
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


def test_a_node_with_other_code_is_named(ray_cluster: None, tmp_path: Path) -> None:
    """Its uadray has the same version number, and one line more in a file."""
    if missing := what_is_missing():
        pytest.skip(f"NO NAMESPACES: {missing}")
    code, other_code = Path(uadray.__file__).parent, tmp_path / "uadray"
    shutil.copytree(code, other_code, ignore=shutil.ignore_patterns("__pycache__"))
    with (other_code / "schemas.py").open("a") as file:
        file.write("# changed\n")
    mounted = ["unshare", "--mount", "sh", "-c", f'mount --bind {other_code} {code} && exec "$@"', "sh"]
    with node({}, inside=mounted) as other:
        (problem,) = preflight.examine_nodes(None, node_ids=[other])[other]
    number = uadray.__version__
    assert problem.startswith(f"versions: uadray {number} (")
    assert f" here and {number} (" in problem
    assert problem.endswith(" on the driver's machine; install the same on both")


def test_a_node_that_does_not_see_a_folder_of_the_driver_is_named(ray_cluster: None, tmp_path: Path) -> None:
    """Bundle, slides and output in a folder of this machine, over which the node has an empty one."""
    if missing := what_is_missing():
        pytest.skip(f"NO NAMESPACES: {missing}")
    folder, out = tmp_path / "work", str(tmp_path / "work" / "out")
    files = [str(folder / "bundle" / "bundle.json"), str(folder / "a.svs")]
    for file in files:
        objects.write_bytes(file, b"{}")
    hidden = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs {folder} && exec "$@"', "sh"]
    with node({}, inside=hidden) as blind:
        found = preflight.examiner(out, files)([blind], 60)[blind]
    assert found == [
        f"input: {files[0]} is on the driver's machine and not here: copy it to s3:// and name it there, or mount its "
        "folder here under the same path",
        f"output: {out} is another place here than on the driver's machine: mount it on every node, or use s3://",
    ]
