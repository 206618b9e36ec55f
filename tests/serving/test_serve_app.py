"""The application on a real Serve: scores of the detector in every arrangement, while bundles change.

One application after the other in one Serve, as `uadray serve` deploys it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import endpoint_parts
import pytest
import requests
import small_detectors
from scrapes import awaited_run
from seaweed import free_port

from uadray.config import parse_config
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.detectors.detector import BATCH
from uadray.metrics import (
    BATCH_ROOM,
    BATCH_TILES,
    BYTES,
    ERRORS,
    GPU_SECONDS,
    QUEUE,
    RUN_INFO,
    SECONDS,
    STAGE_SECONDS,
    TILES,
)
from uadray.serving.deployment_file import DeploymentFile
from uadray.tiles.images import Pixels

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = {"Authorization": "Bearer t"}
PATH = "/v1/tiles/score"

Score = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endpoint")


@pytest.fixture(scope="module")
def calibrated(folder: Path) -> str:
    return endpoint_parts.write_calibrated(folder)


@pytest.fixture(scope="module")
def deploy(
    ray_cluster: None, bundles: dict[str, str], calibrated: str, folder: Path, data_dir: Path
) -> Iterator[Callable[..., str]]:
    """Deploys the endpoint with these fields of its configuration; gives its URL."""
    from ray import serve

    from uadray.serving import server

    port = free_port()
    small = {name: {"cpus": 0.1} for name in ("encoder", "generator", "scorer", "detector")}
    tokens = folder / "tokens.yaml"
    tokens.write_text("- {name: test, scopes: [admin], token: t}\n")
    tokens.chmod(0o600)
    args = small | {
        "out": str(folder / "out"), "tokens": str(tokens),
        "bundles": {"main": bundles["dpa"], "second": bundles["fanogan"], "decides": calibrated,
                    "without": bundles["enlarged_nuclei"]},
        "bundle_sources": [str(Path(bundles["dpa"]).parent)], "slides": [str(data_dir)],
        "slide": {"replicas": 0, "max_replicas": 2, "cpus": 0},
    }  # fmt: skip

    def deployed(**fields: Any) -> str:
        policy = {"policy_function": "uadray.serving.scaling:follow_slides"}
        values = {
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": [{"args": args | fields, "autoscaling_policy": policy}],
        }
        file = parse_config(DeploymentFile, values, source="test")
        server.start(file)
        return file.url

    yield deployed
    serve.shutdown()


@pytest.fixture(scope="module")
def chain(deploy: Callable[..., str]) -> str:
    """The URL of the endpoint with a deployment a stage."""
    return deploy(one_replica=False)


@pytest.fixture(scope="module")
def body(pixels: Pixels, encode: Callable[..., str]) -> dict[str, Any]:
    tiles = [{"id": str(i), "image": encode(tile)} for i, tile in enumerate(pixels)]
    return {"tiles": [*tiles[:5], {"id": "bad", "image": "?"}, *tiles[5:]]}


def scores_of(answer: requests.Response, uri: str, pixels: Pixels) -> None:
    """The answer has the detector's scores, and an error for the bad tile."""
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["bundle_id"] == read_bundle(uri).id
    bad = told["scores"].pop(5)
    assert (bad["id"], bad["score"]) == ("bad", None)
    assert [tile["id"] for tile in told["scores"]] == [str(i) for i in range(len(pixels))]
    expected = load_detector(uri)(pixels).score
    assert [tile["score"] for tile in told["scores"]] == pytest.approx(expected, abs=1e-5)


@contextmanager
def asking(url: str, body: dict[str, Any], answers: list[requests.Response], *, n: int = 1) -> Iterator[None]:
    """So many who ask all the time, and once more in the end."""
    end = threading.Event()

    def ask() -> None:
        is_last = False
        while not is_last:
            is_last = end.is_set()
            answers.append(requests.post(url + PATH, json=body, headers=TOKEN, timeout=60))

    threads = [threading.Thread(target=ask) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_scores_over_http_are_the_detectors_and_counted(
    chain: str, bundles: dict[str, str], pixels: Pixels, body: dict[str, Any]
) -> None:
    ready = requests.get(f"{chain}/readyz", timeout=30)
    assert (ready.status_code, [b["name"] for b in ready.json()["bundles"]]) == (
        200,
        ["main", "decides", "second", "without"],
    )
    assert requests.post(chain + PATH, json=body, timeout=30).status_code == 401
    for name, kind in (("main", "dpa"), ("second", "fanogan"), ("without", "enlarged_nuclei"), ("main", "dpa")):
        answer = requests.post(chain + PATH, json=body | {"bundle": name}, headers=TOKEN, timeout=60)
        scores_of(answer, bundles[kind], pixels)
    n = len(pixels)
    expected: dict[tuple[str, str], float] = {
        (TILES, "serve_map"): 4 * n, (TILES, "serve_reconstruct"): 3 * n, (TILES, "serve_score"): 4 * n,
        (BYTES, "serve_map"): 4 * pixels.nbytes, (ERRORS, "serve_map"): 4, (ERRORS, "serve_score"): 0,
        (BATCH_TILES, "serve_map"): 4 * n, (BATCH_ROOM, "serve_map"): 4 * 2 * BATCH, (GPU_SECONDS, "serve_map"): 0,
        (QUEUE, "to_read"): 0,
    }  # fmt: skip
    run = awaited_run(expected, "serve-")  # the one of this deployment: all its replicas count for it, and no other
    ids = {read_bundle(uri).id for uri in bundles.values()}
    assert len([1 for name, labels in run if name == RUN_INFO and set(labels.split(",")) & ids]) == 3
    assert 0 < run[STAGE_SECONDS, "map"] < run[SECONDS, "serve_map"]


def test_a_bundle_is_swapped_while_requests_run(
    chain: str, bundles: dict[str, str], pixels: Pixels, body: dict[str, Any]
) -> None:
    answers: list[requests.Response] = []
    with asking(chain, body | {"bundle": "second"}, answers):
        time.sleep(0.5)
        swapped = requests.put(
            f"{chain}/v1/bundles/second", json={"uri": bundles["combined"]}, headers=TOKEN, timeout=60
        )
        assert swapped.status_code in (200, 201), swapped.text
        time.sleep(2.5)  # replicas of the ingress look again after two seconds
    for answer in answers:
        is_new = answer.json().get("bundle_id") == read_bundle(bundles["combined"]).id
        scores_of(answer, bundles["combined" if is_new else "fanogan"], pixels)
    assert answers[-1].json()["bundle_id"] == read_bundle(bundles["combined"]).id


def test_a_slide_is_decided_though_no_replica_was_there(chain: str, data_dir: Path) -> None:
    uri = str(data_dir / "mosaics" / "small" / "small21_000.tif")
    sent = requests.post(f"{chain}/v1/slides", json={"uri": uri, "bundles": ["decides"]}, headers=TOKEN, timeout=30)
    assert sent.status_code == 202, sent.text
    until, job = time.monotonic() + 90, sent.json()
    while job["state"] != "done" and time.monotonic() < until:
        time.sleep(0.5)
        job = requests.get(f"{chain}/v1/slides/{job['id']}", headers=TOKEN, timeout=30).json()
    assert job["state"] == "done", job
    assert job["decisions"][0]["state"] == "scored"
    slide = f"{chain}/v1/screenings/{job['screening']}/slides/{job['slide_id']}"
    image = requests.get(slide, headers=TOKEN, timeout=30).json()["image"]
    tile = requests.get(f"{slide}/image/{image['max_level']}/0_0", headers=TOKEN, timeout=30)
    assert (tile.status_code, tile.content[:2]) == (200, b"\xff\xd8")
    assert requests.get(f"{slide}/image/{image['max_level']}/999_0", headers=TOKEN, timeout=30).status_code == 404


@pytest.fixture(scope="module")
def at_once(chain: str, deploy: Callable[..., str], bundles: dict[str, str], folder: Path) -> str:
    """The URL of the endpoint with all stages in one replica, once it was one with a deployment a stage."""
    search = small_detectors.slow_search(str(folder / "search"))
    return deploy(one_replica=True, map_timeout_s=6, bundles={"main": bundles["dpa"], "search": search})


def test_all_stages_in_one_replica_give_the_same_scores(
    at_once: str, bundles: dict[str, str], pixels: Pixels, body: dict[str, Any]
) -> None:
    scores_of(requests.post(at_once + PATH, json=body, headers=TOKEN, timeout=60), bundles["dpa"], pixels)


def test_a_search_ends_with_its_client_and_says_how_many_tiles_fit(
    at_once: str, bundles: dict[str, str], pixels: Pixels, body: dict[str, Any]
) -> None:
    """Of 100,000 steps, for minutes: others in the replica would wait as long."""
    asked = body | {"bundle": "search"}
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(at_once + PATH, json=asked, headers=TOKEN, timeout=2)
    began = time.monotonic()
    scores_of(requests.post(at_once + PATH, json=body, headers=TOKEN, timeout=60), bundles["dpa"], pixels)
    assert time.monotonic() - began < 3, "the search did not end with its client, but after 6 s"
    refused = requests.post(at_once + PATH, json=asked, headers=TOKEN, timeout=60)
    assert refused.status_code == 413, refused.text
    assert "the search for 70 tiles would take about" in refused.json()["detail"]
    assert time.monotonic() - began < 15
