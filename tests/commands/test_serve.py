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


def command(bundle: str, out: Path, *options: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    file = Path(__file__).parents[2] / "configs" / "serve" / "laptop.yaml"
    settings = ["--set", f"bundles.main={bundle}", "--set", f"out={out}"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and not k.startswith("UADRAY_TOKEN")}
    return subprocess.Popen(
        [sys.executable, "-c", "from uadray.cli import main; main()", "serve", str(file), *settings, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean | (env or {}),
    )  # fmt: skip


@pytest.mark.slow
def test_refusals_of_the_command(bundle: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            (): "set UADRAY_TOKEN",
            ("--insecure", "--set", "http_options.host=0.0.0.0"): "0.0.0.0 can be reached from elsewhere",
            ("--insecure", "--set", f"http_options.port={port}"): "cannot listen on 127.0.0.1 port",
            ("--insecure", "--set", f"bundles.main={tmp_path}"): "is no bundle",
            ("--insecure", "--set", "bundles.second=/no/where"): "/no/where",
            ("--insecure", "--set", "detector.cpus=999"): "999 CPUs asked for (detector 999)",
            ("--insecure", "--set", "ingress={replicas: 0, max_replicas: 2}"): "ingress.replicas",
            ("--set", f"tokens={tmp_path / 'none.yaml'}"): "none.yaml",
            (
                "--insecure", "--set", "http_options.ssl_keyfile=/no/key", "--set", "http_options.ssl_certfile=/no/c",
            ): "http_options.ssl_keyfile: no file /no/key",
        }  # fmt: skip
        for options in cases:
            process = command(bundle, tmp_path / "out", *options)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 2, err
            assert cases[options] in err
            assert "Traceback" not in err
            assert len(err.strip().splitlines()) == 1, err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_clean(bundle: str, tmp_path: Path, number: signal.Signals) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    port = free_port()
    setting = ("--set", f"http_options.port={port}")
    process = command(bundle, tmp_path / "out", *setting, env={"UADRAY_TOKEN": "hush-1234"})
    try:
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert json.loads(lines[-1])["url"] == f"http://127.0.0.1:{port}"
        below = set(descendants(process.pid)) - {process.pid}
        assert len(below) > 3
        body = {"tiles": [{"id": "a", "image": encode(pixels[0])}]}
        assert ask(port, PATH, body, Authorization="Bearer other").status == 401
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
