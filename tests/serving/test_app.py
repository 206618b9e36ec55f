"""The application on Ray Serve: scores of the detector over HTTP, also while replicas are killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seaweed import free_port

from uadray.bench.processes import descendants
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.errors import InputError
from uadray.serving.app import build_app
from uadray.serving.config import ServeConfig, StageConfig
from uadray.tiles.images import Pixels

SMALL = {name: StageConfig(cpus=0.1) for name in ("ingress", "encoder", "generator", "scorer", "detector")}
KINDS = ("dpa", "fanogan")


@pytest.mark.parametrize("one_replica", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "enlarged_nuclei"])
def test_the_graph_without_a_cluster(bundles: dict[str, str], pixels: Pixels, kind: str, one_replica: bool) -> None:
    from ray import serve

    app = build_app(ServeConfig(bundle=bundles[kind], one_replica=one_replica))
    handle = serve.run(app, name=f"{kind}-{one_replica}", _local_testing_mode=True)
    assert handle.ready.remote().result() is True
    scores = handle.score.remote(pixels, True).result()
    expected = load_detector(bundles[kind])(pixels)
    assert np.abs(scores.score - expected.score).max() < 1e-5
    assert np.abs(scores.residual - expected.maps(range(len(pixels)))).max() < 1e-5


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
    for stage in ("MapStage", "ScoreStage"):
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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org"])  # noqa: S104
def test_without_a_token_only_loopback(bundles: dict[str, str], monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("UADRAY_TOKEN", raising=False)
    with pytest.raises(InputError, match="set UADRAY_TOKEN"):
        build_app(ServeConfig(bundle=bundles["dpa"], host=host))
