"""Hosts for benchmarks, and `bench faults` without its cluster: what it counts, and what its nodes suffer."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from seaweed import SeaweedServer

from uadray.bench import faults, index, network, nodes, sabotage
from uadray.bench.command import Command, is_named, longest_silence
from uadray.bench.faults import SCENARIOS
from uadray.errors import InputError
from uadray.storage import objects

GOOD = {
    "lost": 0, "doubled": 0, "wrongly_failed": 0, "lines": 20, "longest_silence_s": 30.0, "ended": True,
    "exit_status": 0, "has_traceback": False,
}  # fmt: skip


@pytest.mark.parametrize("bench", [nodes, faults])
def test_without_its_tools_a_bench_says_so(bench: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = bench.run()  # type: ignore[attr-defined]
    assert found["goals_met"] is None
    assert "root" in found["skipped"] or "iproute2" in found["skipped"]


def test_hosts_can_be_cut_off_and_are_gone_afterwards() -> None:
    if missing := network.what_is_missing():
        pytest.skip(f"NO NAMESPACES: {missing}")
    with network.made_network() as hosts:
        hosts.grow(2)
        serve = f"import socket; s = socket.create_server(('{hosts.address(0)}', 5000))\nwhile True: s.accept()"
        server = subprocess.Popen([*hosts.inside(0), sys.executable, "-c", serve])

        def is_reached() -> bool:
            connect = f"import socket; socket.create_connection(('{hosts.address(0)}', 5000), 0.3)"
            client = [*hosts.inside(1), sys.executable, "-c", connect]
            return subprocess.run(client, capture_output=True, check=False).returncode == 0

        while not is_reached():
            assert server.poll() is None
            time.sleep(0.05)
        hosts.unplug(0)
        assert not is_reached()
        hosts.plug_in(0)
        assert is_reached()
        hosts.block(1, 0)
        assert not is_reached()
        hosts.unblock(1, 0)
        assert is_reached()
        hosts.kill(0)
        assert server.wait(5) == -9
    assert hosts.prefix not in network.do("ip", "netns") + network.do("ip", "link")


@pytest.mark.parametrize(
    ("name", "figures", "goals"),
    [
        ("0", {}, []),
        ("0", {"lost": 1, "doubled": 2, "wrongly_failed": 3}, ["lost", "doubled", "wrongly_failed"]),
        ("0", {"lines": 21, "longest_silence_s": 30.1}, ["lines", "longest_silence_s"]),
        ("0", {"ended": False, "exit_status": None}, ["ended", "exit_status"]),
        ("0", {"has_traceback": True}, ["no_traceback"]),
        ("a", {"exit_status": 1, "killer": "crashed", "strikes": 2, "is_named": True}, []),
        ("a", {"exit_status": 1, "killer": None, "strikes": 0}, ["killer", "fault_happened"]),
        ("b", {"is_named": False}, ["is_named"]),
        ("f", {}, ["fault_happened"]),
        ("f", {"fault_after_s": 9.0}, []),
        ("g", {"exit_status": 1, "fault_after_s": 9.0, "head_lost_to_end_s": 61.0, "rerun": {"exit_status": 1}},
         ["head_lost_to_end_s", "rerun"]),
    ],
)  # fmt: skip
def test_goals_that_are_missed_are_named(name: str, figures: dict[str, object], goals: list[str]) -> None:
    assert faults.missed(SCENARIOS[name], GOOD | figures) == goals


def test_what_a_command_prints_is_kept_with_its_time() -> None:
    say = "import sys, time; print('a', flush=True); time.sleep(0.3); print('b\\n', file=sys.stderr); sys.exit(3)"
    with Command([sys.executable, "-c", say], dict(os.environ)) as command:
        assert command.wait(10) == 3
        assert command.seconds == command.seconds
    assert [line for _, line in command.lines] == ["a", "b", ""]
    assert longest_silence([at for at, _ in command.lines], command.seconds) >= 0.3
    assert is_named(command.lines, "b")
    assert not is_named(command.lines, "a", "b")


def test_a_command_that_does_not_end_is_killed() -> None:
    with Command(["sleep", "60"], dict(os.environ)) as command:
        assert command.wait(0.1) is None
    assert command._process.returncode == -9


@pytest.mark.s3
def test_puts_are_counted_by_the_server(s3: SeaweedServer) -> None:
    folder = f"s3://{s3.bucket}/counted"
    for name in ("once.json", "twice.json", "twice.json"):
        objects.write_bytes(f"{folder}/decisions/{name}", name.encode())
    assert not objects.put_if_absent(f"{folder}/decisions/once.json", b"refused")
    objects.delete(f"{folder}/decisions/once.json")
    objects.write_bytes(f"{folder}/run.json", b"elsewhere")
    time.sleep(0.01)  # the journal is read up to a millisecond ago
    assert s3.puts("counted/decisions") == {"once.json": 1, "twice.json": 2}


@pytest.fixture
def struck(tmp_path: Path) -> Path:
    """A folder with the nodes' `sitecustomize.py`; the file that tells where it struck."""
    shutil.copy(sabotage.__file__, tmp_path / "sitecustomize.py")
    return tmp_path / "struck"


def _sabotaged(struck: Path, fault: str, code: str, *, address: str = "10.0.0.1") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(struck.parent), str(Path(__file__).parents[2])])
    environment = os.environ | {
        "PYTHONPATH": path, sabotage.FAULT: fault, sabotage.ADDRESS: address, sabotage.STRUCK: str(struck)
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=False)


def test_a_node_without_uadray(struck: Path) -> None:
    done = _sabotaged(struck, "missing", "import uadray.errors")
    assert "No module named 'uadray'" in done.stderr
    assert struck.read_text() == "10.0.0.1\n"


@pytest.mark.parametrize(("slide_id", "status"), [("s0005", -9), ("s0004", 1)])
def test_a_slide_kills_its_reader(struck: Path, slide_id: str, status: int) -> None:
    code = f"from uadray.slides.opening import open_slide; open_slide('/no/such.tif', slide_id='{slide_id}')"
    done = _sabotaged(struck, "reader:s0005", code)
    assert done.returncode == status
    assert struck.exists() is (status == -9)
    assert ("no such file" in done.stderr) is (status == 1)


def test_the_device_of_one_node_breaks(struck: Path) -> None:
    code = (
        "from uadray.detectors.detector import Detector; import numpy as np; import torch\n"
        "score = lambda x, x_hat: (x.mean((1, 2, 3)), x[:, 0])\n"
        "ready = Detector(lambda x: x, lambda z: z, score, input_px=8, device=torch.device('cpu'))\n"
        "tile = np.zeros((1, 8, 8, 3), np.uint8)\n"
        "for i in range(3): print(i, len(ready(tile).score), flush=True)"
    )
    first, other = (_sabotaged(struck, "device:2", code, address=address) for address in ("10.0.0.1", "10.0.0.2"))
    assert first.stdout.split() == ["0", "1", "1", "1"]
    assert "CUDA error" in first.stderr
    assert other.returncode == 0, other.stderr
    assert struck.read_text() == "10.0.0.1\n"


@pytest.mark.parametrize(("name", "only", "what"), [("nodes", "a", "no scenarios"), ("faults", "a,z", "no scenario z")])
def test_scenarios_that_there_are_not_are_refused(name: str, only: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        index.run(name, only=only.split(","))
