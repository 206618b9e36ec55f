"""Slides are sent over HTTP to a real worker, and what comes back is what a screening writes."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import endpoint_parts as parts
import httpx
import pyarrow.parquet as pq
import pytest
from serving_client import all_scopes, listening, plain_services

from uadray.serving.access.tokens import FixedTokens, Token, digest
from uadray.serving.config import ServeConfig
from uadray.serving.jobs.queue import Jobs
from uadray.serving.jobs.slide_worker import SlideWorker

SMALL = "mosaics/small"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bundles")
    return {"tiny": parts.write_calibrated(folder), "other": parts.write_calibrated(folder, name="other", seed=1)}


class Endpoint:
    """An endpoint without Ray, with a worker that is started when a test wants it to."""

    def __init__(self, out: Path, bundles: dict[str, str], data_dir: Path, **limits: Any) -> None:
        self.config = ServeConfig(out=str(out), bundles=bundles, slides=(str(data_dir), str(out.parent)), **limits)
        self.jobs = Jobs(str(out))
        self.services = plain_services(self.config, tokens=all_scopes("t"), jobs=self.jobs)
        self._stop = threading.Event()
        self._worker = SlideWorker(self.jobs, parts.score_here)
        self._thread = threading.Thread(target=self._worker.run, args=(self._stop,))

    def work(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._worker.close()


@pytest.fixture
def endpoint(tmp_path: Path, bundles: dict[str, str], data_dir: Path) -> Iterator[Endpoint]:
    made = Endpoint(tmp_path / "out", bundles, data_dir)
    yield made
    made.close()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    with listening(endpoint.services) as port:
        headers = {"Authorization": "Bearer t"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as made:
            yield made


@pytest.fixture
def slide(data_dir: Path) -> Callable[[int], str]:
    return lambda number: str(data_dir / SMALL / f"small21_{number:03d}.tif")


def ended(client: httpx.Client, path: str) -> dict[str, Any]:
    """Wait until a job is done or cancelled."""
    while True:
        job: dict[str, Any] = client.get(path).json()
        if job["state"] in ("done", "cancelled"):
            return job
        time.sleep(0.1)


def test_a_slide_from_its_sending_to_its_tiles(
    endpoint: Endpoint, client: httpx.Client, slide: Callable[[int], str]
) -> None:
    endpoint.work()
    answer = client.post("/v1/slides", json={"uri": slide(0), "site": "north"})
    assert answer.status_code == 202
    job = ended(client, answer.headers["Location"])
    assert (job["state"], job["decisions"][0]["state"]) == ("done", "scored")
    record = client.get(f"/v1/slides/{job['id']}/decision").json()
    assert record == json.loads((Path(endpoint.config.out) / "decisions" / f"{job['slide_id']}.json").read_text())
    assert record["score"] == job["decisions"][0]["score"]
    tiles = pq.read_table(io.BytesIO(client.get(f"/v1/slides/{job['id']}/tiles").content))
    assert len(tiles) == record["n_tiles"]
    pages, cursor = list[dict[str, Any]](), 0
    while cursor is not None:
        page = client.get(f"/v1/slides/{job['id']}/tiles", params={"format": "json", "limit": 50, "cursor": cursor})
        pages += page.json()["tiles"]
        cursor = page.json()["next_cursor"]
    assert [tile["tile_id"] for tile in pages] == tiles["tile_id"].to_pylist()
    assert client.get(f"/v1/slides/{job['id']}/masks").json()["type"] == "FeatureCollection"
    assert b"<svg" in client.get(f"/v1/slides/{job['id']}/evidence").content
    for name in ("thumbnail", "heatmap"):
        picture = client.get(f"/v1/slides/{job['id']}/{name}")
        assert (picture.headers["content-type"], picture.content[:3]) == ("image/jpeg", b"\xff\xd8\xff")
    assert client.delete(f"/v1/slides/{job['id']}").status_code == 409


def test_events_end_with_the_decision(endpoint: Endpoint, client: httpx.Client, slide: Callable[[int], str]) -> None:
    job = client.post("/v1/slides", json={"uri": slide(1)}).json()
    with client.stream("GET", f"/v1/slides/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        assert json.loads(first.removeprefix("data: "))["state"] == "waiting"
        endpoint.work()
        told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert told[-1]["state"] == "done"
    assert told[-1]["decisions"][0]["score"] is not None


def test_what_is_sent_twice_under_a_key_is_one_job(client: httpx.Client, slide: Callable[[int], str]) -> None:
    first = client.post("/v1/slides", json={"uri": slide(0)}, headers={"Idempotency-Key": "k"})
    again = client.post("/v1/slides", json={"uri": slide(0), "idempotency_key": "k"})
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/v1/slides", json={"uri": slide(1), "idempotency_key": "k"})
    assert (other.status_code, "another request" in other.json()["detail"]) == (409, True)
    assert len(client.get("/v1/slides").json()["slides"]) == 1


def test_a_job_is_cancelled_before_it_is_worked_on(
    endpoint: Endpoint, client: httpx.Client, slide: Callable[[int], str]
) -> None:
    job = client.post("/v1/slides", json={"uri": slide(0)}).json()
    assert client.get(f"/v1/slides/{job['id']}/decision").status_code == 409
    assert client.delete(f"/v1/slides/{job['id']}").json()["state"] == "cancelled"
    endpoint.work()
    time.sleep(0.5)
    assert client.get(f"/v1/slides/{job['id']}").json()["state"] == "cancelled"
    assert not (Path(endpoint.config.out) / "decisions").exists()


def test_lists_have_pages_the_newest_first(client: httpx.Client, slide: Callable[[int], str]) -> None:
    sent = []
    for number in range(5):
        sent.append(client.post("/v1/slides", json={"uri": slide(number)}).json()["id"])
        time.sleep(0.002)
    listed, cursor = list[str](), None
    while True:
        page = client.get("/v1/slides", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        listed += [job["id"] for job in page["slides"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert listed == sent[::-1]
    assert client.get("/v1/slides", params={"state": "done"}).json()["slides"] == []


def test_a_batch_becomes_jobs_and_its_counts_add_up(
    endpoint: Endpoint, client: httpx.Client, slide: Callable[[int], str], data_dir: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,uri\ngood,{slide(2)}\nbroken,{data_dir / 'wsi' / 'unopenable.tiff'}\n")
    endpoint.work()
    answer = client.post("/v1/batches", json={"manifest": str(manifest)})
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    while client.get(f"/v1/batches/{batch['id']}").json()["counts"]["open"]:
        time.sleep(0.1)
    counts = client.get(f"/v1/batches/{batch['id']}").json()["counts"]
    assert {name: counts[name] for name in ("done", "scored", "failed", "cancelled")} == {
        "done": 2, "scored": 1, "failed": 1, "cancelled": 0,
    }  # fmt: skip
    jobs = client.get("/v1/slides", params={"batch": batch["id"]}).json()["slides"]
    assert [job["slide_id"] for job in jobs] == ["good", "broken"]
    assert [each["id"] for each in client.get("/v1/batches").json()["batches"]] == [batch["id"]]


def test_a_cancelled_batch_leaves_nothing_in_the_queue(
    endpoint: Endpoint, client: httpx.Client, data_dir: Path
) -> None:
    batch = client.post("/v1/batches", json={"prefix": str(data_dir / SMALL)}).json()
    assert batch["n_slides"] == 40
    assert client.delete(f"/v1/batches/{batch['id']}").json()["is_cancelled"]
    endpoint.work()
    deadline = time.monotonic() + 20
    while endpoint.jobs.places():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    counts = client.get(f"/v1/batches/{batch['id']}").json()["counts"]
    assert (counts["open"], counts["done"], counts["cancelled"]) == (0, 0, 40)


def test_a_slide_that_comes_while_a_batch_is_screened_is_not_stuck_behind_it(
    endpoint: Endpoint, client: httpx.Client, slide: Callable[[int], str], data_dir: Path
) -> None:
    batch = client.post("/v1/batches", json={"prefix": str(data_dir / SMALL)}).json()
    endpoint.work()
    while not client.get("/v1/slides", params={"batch": batch["id"]}).json()["slides"]:
        time.sleep(0.05)
    job = client.post("/v1/slides", json={"uri": slide(0), "slide_id": "urgent"}).json()
    ended(client, f"/v1/slides/{job['id']}")
    counts = client.get(f"/v1/batches/{batch['id']}").json()["counts"]
    assert counts["done"] < 10
    client.delete(f"/v1/batches/{batch['id']}")


def test_bundles_side_by_side_have_a_screening_of_their_own(
    endpoint: Endpoint, client: httpx.Client, slide: Callable[[int], str]
) -> None:
    endpoint.work()
    alone = client.post("/v1/slides", json={"uri": slide(3)}).json()
    both = client.post("/v1/slides", json={"uri": slide(3), "bundles": ["tiny", "other"]}).json()
    assert (alone["screening"], both["screening"] != "main") == ("main", True)
    job = ended(client, f"/v1/slides/{both['id']}")
    assert [one["bundle"] for one in job["decisions"]] == ["other", "tiny"]
    assert (Path(endpoint.config.out) / "screenings" / both["screening"] / "run.json").exists()
    assert client.get(f"/v1/slides/{both['id']}/tiles", params={"bundle": "other"}).status_code == 200
    assert client.get(f"/v1/slides/{both['id']}/tiles", params={"bundle": "none"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"uri": "/etc/passwd"}, 403, "not below"),
        ({"uri": "http://169.254.169.254/latest"}, 403, "expected"),
        ({"uri": "s3://other/a.svs"}, 403, "not below"),
        ({}, 422, "uri"),
        ({"uri": "SLIDE", "mpp": -1}, 422, "mpp"),
        ({"uri": "SLIDE", "slide_id": "../x"}, 422, "slide_id"),
        ({"uri": "SLIDE", "bundles": ["nobody"]}, 404, "nobody"),
        ({"uri": "SLIDE", "priority": 10}, 422, "priority"),
        ({"uri": "SLIDE", "typo": 1}, 422, "typo"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(
    client: httpx.Client, slide: Callable[[int], str], body: dict[str, Any], status: int, words: str
) -> None:
    sent = {name: slide(0) if value == "SLIDE" else value for name, value in body.items()}
    answer = client.post("/v1/slides", json=sent)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]


def test_an_id_stands_for_one_slide(client: httpx.Client, slide: Callable[[int], str]) -> None:
    assert client.post("/v1/slides", json={"uri": slide(0), "slide_id": "a"}).status_code == 202
    assert client.post("/v1/slides", json={"uri": slide(1), "slide_id": "a"}).status_code == 409


def test_a_full_queue_is_said(
    tmp_path: Path, bundles: dict[str, str], data_dir: Path, slide: Callable[..., str]
) -> None:
    endpoint = Endpoint(tmp_path / "out", bundles, data_dir, max_waiting_slides=1)
    with listening(endpoint.services) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.headers["Authorization"] = "Bearer t"
        client.post("/v1/slides", json={"uri": slide(0)})
        endpoint.jobs.recount()
        answer = client.post("/v1/slides", json={"uri": slide(1)})
    endpoint.close()
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)


def test_scopes_keep_readers_from_sending(endpoint: Endpoint, slide: Callable[[int], str]) -> None:
    reader = FixedTokens((Token("reader", frozenset({"read"}), digest("r")),))
    services = plain_services(endpoint.config, tokens=reader, jobs=endpoint.jobs)
    with listening(services) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.headers["Authorization"] = "Bearer r"
        assert client.get("/v1/slides").status_code == 200
        answer = client.post("/v1/slides", json={"uri": slide(0)})
        assert (answer.status_code, "submit" in answer.json()["detail"]) == (403, True)
        assert client.get("/v1/slides", headers={"Authorization": "Bearer no"}).status_code == 401
