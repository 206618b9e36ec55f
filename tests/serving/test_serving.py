"""Ray Serve gives the scores of `Detector`, starts only what may be reached, and ends without leaving anything."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uadray.config import load_config
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.errors import InputError
from uadray.serving.app import build_app
from uadray.serving.schemas import ServeConfig, StageConfig
from uadray.serving.stages import Encoder, Generator, Scorer, Whole
from uadray.tiles.images import Pixels

SMALL = {name: StageConfig(cpus=0.1) for name in ("ingress", "encoder", "generator", "scorer", "detector")}
KINDS = ("dpa", "fanogan")


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
    return port


@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_are_the_detectors(bundles: dict[str, str], pixels: Pixels, kind: str) -> None:
    expected = load_detector(bundles[kind])(pixels)
    encoder, generator, scorer = (
        cls(bundles[kind], read_bundle(bundles[kind])) for cls in (Encoder, Generator, Scorer)
    )
    pixels.setflags(write=False)  # as arrays from the object store are
    scores = scorer(pixels, generator(encoder(pixels)), maps=True)
    assert np.abs(scores.score - expected.score).max() < 1e-5
    assert np.abs(scores.residual - expected.residual).max() < 1e-5
    assert scorer(pixels[:1], generator(encoder(pixels[:1]))).residual is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_loads_its_own_networks_and_one_replica_loads_them_once(bundles: dict[str, str], kind: str) -> None:
    bundle = read_bundle(bundles[kind])
    x = torch.zeros(1, 3, bundle.detector.input_px, bundle.detector.input_px)
    for cls, own in ((Encoder, "mapping"), (Generator, "reconstruct"), (Scorer, "score")):
        detector = cls(bundles[kind], bundle).detector
        calls = {"mapping": (x,), "reconstruct": (x,), "score": (x, x)}
        for name, arguments in calls.items():
            if name != own:
                with pytest.raises(RuntimeError, match="was not loaded"):
                    getattr(detector, name)(*arguments)
    whole = Whole(bundles[kind], bundle, batch_tiles=5)
    assert whole.encoder.detector is whole.generator.detector is whole.scorer.detector
    assert whole.scorer.detector.batch_tiles == 5


@pytest.mark.parametrize("one_replica", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_without_a_cluster(bundles: dict[str, str], pixels: Pixels, kind: str, one_replica: bool) -> None:
    from ray import serve

    app = build_app(ServeConfig(bundle=bundles[kind], one_replica=one_replica))
    handle = serve.run(app, name=f"{kind}-{one_replica}", _local_testing_mode=True)
    assert handle.ready.remote().result() is True
    scores = handle.score.remote(pixels, True).result()
    expected = load_detector(bundles[kind])(pixels)
    assert np.abs(scores.score - expected.score).max() < 1e-5
    assert np.abs(scores.residual - expected.residual).max() < 1e-5


@pytest.fixture(scope="module")
def serve_port(ray_cluster: None, bundles: dict[str, str]) -> Iterator[int]:
    """A real Serve: a chain at /dpa, which wants the token `t`, and one replica at /fanogan."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    chain = ServeConfig(bundle=bundles["dpa"], max_body_bytes=10**6, **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UADRAY_TOKEN", "t")
        serve.run(build_app(chain), name="dpa", route_prefix="/dpa")
        patch.delenv("UADRAY_TOKEN")
        whole = ServeConfig(bundle=bundles["fanogan"], one_replica=True, **SMALL)
        serve.run(build_app(whole), name="fanogan", route_prefix="/fanogan")
    yield port
    serve.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_scores_over_http_are_the_detectors(
    bundles: dict[str, str],
    pixels: Pixels,
    serve_port: int,
    encode: Callable[..., str],
    ask: Callable[..., Any],
    kind: str,
) -> None:
    tiles = [{"id": str(i), "image": encode(tile)} for i, tile in enumerate(pixels)]
    tiles.insert(5, {"id": "bad", "image": "?"})
    answer = ask(serve_port, f"/{kind}/v1/tiles/score", {"tiles": tiles}, Authorization="Bearer t")
    assert answer.status == 200
    assert answer.body["bundle_id"] == read_bundle(bundles[kind]).id
    bad = answer.body["scores"].pop(5)
    assert (bad["id"], bad["score"]) == ("bad", None)
    assert [s["id"] for s in answer.body["scores"]] == [str(i) for i in range(len(pixels))]
    expected = load_detector(bundles[kind])(pixels).score
    assert [s["score"] for s in answer.body["scores"]] == pytest.approx(expected, abs=1e-5)


@pytest.mark.ray
@pytest.mark.slow
def test_refusals_pass_through_serve(serve_port: int, ask: Callable[..., Any]) -> None:
    path, token = "/dpa/v1/tiles/score", {"Authorization": "Bearer t"}
    assert ask(serve_port, path, {"tiles": []}).status == 401
    assert ask(serve_port, path, b"{", **token).body == {
        "error": "body: Invalid JSON: EOF while parsing an object at line 1 column 1"
    }
    assert ask(serve_port, path, b" " * (10**6 + 1), **token).status == 413
    assert ask(serve_port, "/dpa/healthz").body["status"] == "ok"


@pytest.mark.ray
@pytest.mark.slow
def test_killed_stages_cost_no_request_its_scores(
    bundles: dict[str, str], pixels: Pixels, serve_port: int, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    body = {"tiles": [{"id": str(i), "image": encode(tile)} for i, tile in enumerate(pixels)]}
    expected = load_detector(bundles["dpa"])(pixels).score
    answers, killed = [], threading.Event()

    def keep_asking() -> None:
        while True:
            last = killed.is_set()
            answers.append(ask(serve_port, "/dpa/v1/tiles/score", body, Authorization="Bearer t"))
            if last:
                return

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    for stage in ("Encoder", "Scorer"):
        time.sleep(1)
        kill_replica(stage)
    killed.set()
    for thread in threads:
        thread.join()
    assert len(answers) > 6
    assert {answer.status for answer in answers} == {200}, [a for a in answers if a.status != 200]
    for answer in answers:
        assert [s["score"] for s in answer.body["scores"]] == pytest.approx(expected, abs=1e-5)


def kill_replica(deployment: str) -> None:
    """SIGKILL to the one replica of the chain's deployment."""
    wanted = f"ServeReplica:dpa:{deployment}".encode()
    (pid,) = [pid for pid in descendants(os.getpid()) if wanted in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(pid, signal.SIGKILL)


def test_a_typo_names_the_nearest_field(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("bundle: b\nmax_tile_per_request: 3\n")
    with pytest.raises(InputError, match=r"max_tile_per_request: no such field; did you mean max_tiles_per_request\?"):
        load_config(ServeConfig, path)
    path.write_text("bundle: b\nencoder: {replica: 3}\n")
    with pytest.raises(InputError, match=r"encoder.replica: no such field; did you mean replicas\?"):
        load_config(ServeConfig, path)
    path.write_text("bundle: b\nencoder: {replicas: 3, max_replicas: 2}\n")
    with pytest.raises(InputError, match="max_replicas 2 is less than replicas 3"):
        load_config(ServeConfig, path)


def test_the_configuration_we_ship() -> None:
    config = load_config(ServeConfig, Path(__file__).parents[2] / "configs" / "serve.yaml")
    assert config.is_loopback
    assert list(config.stages) == ["detector"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org"])  # noqa: S104
def test_without_a_token_only_loopback(bundles: dict[str, str], monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("UADRAY_TOKEN", raising=False)
    with pytest.raises(InputError, match="set UADRAY_TOKEN"):
        build_app(ServeConfig(bundle=bundles["dpa"], host=host))


def command(bundle: str, *settings: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    config = Path(__file__).parents[2] / "configs" / "serve.yaml"
    sets = [part for setting in (f"bundle={bundle}", *settings) for part in ("--set", setting)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "UADRAY_TOKEN"}
    return subprocess.Popen(
        [sys.executable, "-c", "from uadray.cli import main; main()", "serve", str(config), *sets],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean | (env or {}),
    )  # fmt: skip


@pytest.mark.slow
def test_refusals_of_the_command(bundles: dict[str, str], tmp_path: Path) -> None:
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
            process = command(bundles["dpa"], setting)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 2
            assert words in err
            assert "Traceback" not in err


def descendants(pid: int) -> set[int]:
    """Every process below `pid`."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found - {pid}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_clean(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any], number: signal.Signals
) -> None:
    port = free_port()
    process = command(bundles["fanogan"], f"port={port}", env={"UADRAY_TOKEN": "hush-1234"})
    try:
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert json.loads(lines[-1])["url"] == f"http://127.0.0.1:{port}"
        below = descendants(process.pid)
        assert len(below) > 3
        body = {"tiles": [{"id": "a", "image": encode(pixels[0])}]}
        scored = ask(port, "/v1/tiles/score", body, Authorization="Bearer hush-1234").body["scores"][0]["score"]
        assert scored == pytest.approx(load_detector(bundles["fanogan"])(pixels[:1]).score[0], abs=1e-5)
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
