"""`uadray serve`: what it refuses, and that it ends without leaving a process behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from seaweed import free_port
from serving_client import PATH, ask, encode

from uadray.bench.processes import descendants
from uadray.bench.slides import write_tiny_bundle
from uadray.detectors.bundle import load_detector


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Reads tiles of 128 px."""
    uri = str(tmp_path_factory.mktemp("serve") / "bundle")
    write_tiny_bundle(uri)
    return uri


def command(bundle: str, *settings: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    config = Path(__file__).parents[2] / "configs" / "serve.yaml"
    sets = [part for setting in (f"bundle={bundle}", *settings) for part in ("--set", setting)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "UADRAY_TOKEN"}
    return subprocess.Popen(
        [sys.executable, "-c", "from uadray.cli import main; main()", "serve", str(config), *sets],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean | (env or {}),
    )  # fmt: skip


@pytest.mark.slow
def test_refusals_of_the_command(bundle: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = {
            "host=0.0.0.0": "set UADRAY_TOKEN",
            f"port={taken.getsockname()[1]}": "cannot listen on 127.0.0.1 port",
            f"bundle={tmp_path}": "is no bundle",
            "detector.cpus=999": "999.5 CPUs asked for (ingress 0.5, detector 999)",
        }
        for setting, words in cases.items():
            process = command(bundle, setting)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 2
            assert words in err
            assert "Traceback" not in err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_clean(bundle: str, number: signal.Signals) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    port = free_port()
    process = command(bundle, f"port={port}", env={"UADRAY_TOKEN": "hush-1234"})
    try:
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert json.loads(lines[-1])["url"] == f"http://127.0.0.1:{port}"
        below = set(descendants(process.pid)) - {process.pid}
        assert len(below) > 3
        body = {"tiles": [{"id": "a", "image": encode(pixels[0])}]}
        scored = ask(port, PATH, body, Authorization="Bearer hush-1234").body["scores"][0]["score"]
        assert scored == pytest.approx(load_detector(bundle)(pixels[:1]).score[0], abs=1e-5)
        process.send_signal(number)
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "hush-1234" not in "".join(lines) + out + err
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in below):
        time.sleep(0.2)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
