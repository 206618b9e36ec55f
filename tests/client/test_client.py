"""An endpoint from Python: what is repeated and what is not, and what outlives a cut connection and a restart."""

import asyncio
import logging
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import faulty_endpoint
import numpy as np
import pytest
from faulty_endpoint import Endpoint, cut, failed, problem, running, scored

from uadray.client.client import Client
from uadray.errors import AccessError, InputError, NotFoundError, UnreachableError, WorkError

TOKEN = "correct-horse"


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Client]:
    with running(endpoint) as port, Client(f"http://127.0.0.1:{port}/", TOKEN, patience_s=5) as client:
        yield client


def _asked(endpoint: Endpoint, path: str) -> list[dict[str, str]]:
    return [headers for _, seen, headers in endpoint.seen if seen == path]


def test_a_slide_from_sending_to_its_tiles(endpoint: Endpoint, client: Client) -> None:
    job = client.submit("s3://archive/a.svs", slide_id="a", patient_id="p", bundles=["x"], priority=9)
    assert endpoint.jobs[job.id]["asked"] == {
        "uri": "s3://archive/a.svs", "slide_id": "a", "patient_id": "p", "bundles": ["x"], "priority": 9,
    }  # fmt: skip
    seen: list[Any] = []
    job = client.wait(job, progress=seen.append)
    assert [each.state for each in seen] == ["running", "done"]
    assert (seen[0].progress.tiles, seen[0].progress.of, seen[0].progress.seconds_left) == (1, 2, 1.0)
    assert (job.has_ended, job.has_failed, job.decisions[0].p_value) == (True, False, 0.02)
    assert repr(job) == f"<Job {job.id} done: anomalous>"
    decision = client.decision(job)
    assert (decision.only.decision, decision.only.score, decision.record["slide_id"]) == ("anomalous", 2.5, "a")
    assert client.tiles(job)["score"].to_pylist() == [0.5]
    assert {headers["authorization"] for _, _, headers in endpoint.seen} == {f"Bearer {TOKEN}"}


def test_a_notebook_shows_decision_and_pictures(endpoint: Endpoint, client: Client) -> None:
    job = client.wait(client.submit("a.svs", slide_id="<script>alert(1)</script>"))
    decision = client.decision(job)
    shown = decision._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert all(text in shown for text in ("anomalous", "2.5", "0.02"))
    assert shown.count("src='data:image/jpeg;base64,") == 2
    endpoint.faults = [lambda _: problem(404, "no picture"), lambda _: problem(503, "busy", retry_after="60")]
    began = time.monotonic()
    assert "<img" not in decision._repr_html_()
    assert time.monotonic() - began < 1
    assert "<img" not in job._repr_html_()


def test_several_bundles_decide(endpoint: Endpoint, client: Client) -> None:
    endpoint.decisions = [scored(bundle="x"), scored(bundle="y", decision="normal", p_value=0.5)]
    decision = client.decision(client.wait(client.submit("a.svs")))
    assert [(each.bundle, each.decision) for each in decision.decisions] == [("x", "anomalous"), ("y", "normal")]
    assert repr(decision) == "<Decision a: anomalous, p 0.02; normal, p 0.5>"
    assert "y: decision" in decision._repr_html_()
    with pytest.raises(InputError, match="2 bundles have decided"):
        _ = decision.only


def test_a_busy_endpoint_is_left_alone_as_long_as_it_asks(endpoint: Endpoint, client: Client) -> None:
    endpoint.faults = [lambda _: problem(429, "queue full", retry_after="1"), lambda _: problem(503, "starting")]
    began = time.monotonic()
    client.submit("a.svs")
    assert time.monotonic() - began > 1
    keys = {headers["idempotency-key"] for headers in _asked(endpoint, "/v1/slides")}
    assert (len(endpoint.seen), len(keys), len(endpoint.jobs)) == (3, 1, 1)


def test_a_proxy_whose_endpoint_is_not_there_yet(endpoint: Endpoint, client: Client) -> None:
    """It is asked again; an endpoint that does not have something is not."""
    endpoint.faults = [lambda _: faulty_endpoint.Response("Path not found.", 404, media_type="text/plain")]
    job = client.submit("a.svs")
    assert (len(endpoint.seen), job.state) == (2, "waiting")
    with pytest.raises(NotFoundError):
        client.status("f" * 19)
    assert len(endpoint.seen) == 3


def test_a_longer_wait_than_patience_is_not_begun(endpoint: Endpoint, client: Client) -> None:
    endpoint.faults = [lambda _: problem(429, "100000 slides wait", retry_after="60")]
    began = time.monotonic()
    with pytest.raises(WorkError, match=r"/v1/slides: 429: 100000 slides wait \(request r1\)$"):
        client.submit("a.svs")
    assert time.monotonic() - began < 1


def test_a_slide_whose_answer_is_lost_is_sent_again_and_is_one_job(endpoint: Endpoint, client: Client) -> None:
    endpoint.faults = [lambda request: cut()]
    job = client.submit("a.svs", idempotency_key="mine")
    assert client.submit("a.svs", idempotency_key="mine") == job
    assert (len(endpoint.seen), len(endpoint.jobs), list(endpoint.keys)) == (3, 1, ["mine"])
    client.submit("a.svs")
    assert len(endpoint.jobs) == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InputError), (401, AccessError), (403, AccessError), (404, NotFoundError),
                         (409, InputError), (413, InputError), (422, InputError), (500, WorkError), (504, WorkError)],
)  # fmt: skip
def test_a_refusal_is_final_and_one_line(
    endpoint: Endpoint, client: Client, status: int, kind: type[Exception]
) -> None:
    endpoint.faults = [lambda _: problem(status, "uri: not\nallowed \x1b[31m" + "x" * 1000, retry_after="0")]
    with pytest.raises(kind) as caught:
        client.submit("a.svs")
    text = str(caught.value)
    assert len(endpoint.seen) == 1
    assert f"/v1/slides: {status}: uri: not allowed [31m" in text
    assert text.isprintable()
    assert len(text) < 600
    assert TOKEN not in text


def test_what_changes_something_without_a_key_is_never_repeated(endpoint: Endpoint, client: Client) -> None:
    endpoint.faults = [lambda _: problem(503, "busy")]
    with pytest.raises(WorkError, match="busy"):
        client._at.send("POST", "/v1/slides", json={})
    assert len(endpoint.seen) == 1


def test_events_that_break_off_are_gone_on_with(endpoint: Endpoint, client: Client) -> None:
    streams = []

    async def events(job: dict[str, Any]) -> AsyncIterator[bytes]:
        streams.append(job["state"])
        yield faulty_endpoint.event(endpoint.moved(job))
        yield b'event: progress\ndata: {"id": "half'
        raise ConnectionAbortedError("cut off on purpose")

    endpoint.events, endpoint.steps = events, 9
    seen: list[Any] = []
    job = client.wait(client.submit("a.svs"), progress=seen.append)
    assert job.state == "done"
    assert 2 <= len(streams) <= 9
    assert [each.progress.tiles for each in seen] == sorted(each.progress.tiles for each in seen)


def test_an_endpoint_without_events_is_looked_at(endpoint: Endpoint, client: Client) -> None:
    job = client.submit("a.svs")
    endpoint.faults = [lambda _: problem(404, "a proxy knows no events")]
    assert client.wait(job).state == "done"


def test_waiting_for_what_is_not_there(client: Client) -> None:
    with pytest.raises(NotFoundError, match="404: no such job"):
        client.wait("0" * 19)


def test_waiting_goes_on_when_the_endpoint_is_started_again(endpoint: Endpoint) -> None:
    async def silent(job: dict[str, Any]) -> AsyncIterator[bytes]:
        yield faulty_endpoint.event(job)
        while True:  # until the server is killed
            await asyncio.sleep(0.05)
            yield b": here\n\n"

    endpoint.events = silent
    port = faulty_endpoint.free_port()
    states: list[str] = []
    with Client(f"http://127.0.0.1:{port}", patience_s=20) as client:
        with running(endpoint, port):
            job = client.submit("a.svs")
            thread = threading.Thread(target=lambda: states.append(client.wait(job).state))
            thread.start()
            while not _asked(endpoint, f"/v1/slides/{job.id}/events"):
                time.sleep(0.01)
        time.sleep(1)  # nobody is there
        assert thread.is_alive()
        endpoint.events = None
        with running(endpoint, port):
            thread.join(15)
    assert states == ["done"]


def test_waiting_no_longer_than_wanted(endpoint: Endpoint, client: Client) -> None:
    endpoint.steps = 10**6
    began = time.monotonic()
    with pytest.raises(WorkError, match=r"has not ended within 0\.5 s; it goes on"):
        client.wait(client.submit("a.svs"), timeout_s=0.5)
    assert 0.5 < time.monotonic() - began < 3


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    port = faulty_endpoint.free_port()
    with (
        caplog.at_level(logging.WARNING, "uadray"),
        Client(f"http://127.0.0.1:{port}", patience_s=4) as client,
        pytest.raises(UnreachableError, match=f"^http://127.0.0.1:{port}: no answer: .*refused"),
    ):
        client.bundles()
    assert "trying again for" in caplog.text


def test_a_host_that_does_not_exist_is_not_waited_for() -> None:
    began = time.monotonic()
    with (
        Client("http://nowhere.invalid", patience_s=60) as client,
        pytest.raises(InputError, match=r"nowhere\.invalid: "),
    ):
        client.bundles()
    assert time.monotonic() - began < 30


def test_a_token_goes_to_one_address_only(endpoint: Endpoint, client: Client) -> None:
    other = Endpoint()
    with running(other) as port:
        elsewhere = f"http://127.0.0.1:{port}/v1/slides"
        endpoint.faults = [lambda _: problem(307, "", location=elsewhere)]
        with pytest.raises(InputError, match=f"it moved to {elsewhere}; give that URL"):
            client.submit("a.svs")
    assert other.seen == []


def test_an_answer_that_is_none_of_ours(endpoint: Endpoint, client: Client) -> None:
    endpoint.faults = [lambda _: faulty_endpoint.Response("<html>", media_type="text/html")]
    with pytest.raises(InputError, match=r"answers text/html.*is it an endpoint of uadray"):
        client.submit("a.svs")
    endpoint.faults = [lambda _: faulty_endpoint.JSONResponse({"no": "job"})]
    with pytest.raises(WorkError, match="answers no job"):
        client.submit("a.svs")


def test_all_jobs_page_by_page(endpoint: Endpoint, client: Client) -> None:
    sent = [client.submit(f"{i}.svs").id for i in range(5)]
    assert [job.id for job in client.jobs()] == sent
    assert len(_asked(endpoint, "/v1/slides")) == 5 + 3
    endpoint.faults = [lambda _: faulty_endpoint.JSONResponse({"slides": [], "next_cursor": "x"})] * 9
    assert list(client.jobs()) == []  # a cursor that leads nowhere ends it


def test_a_job_is_cancelled(endpoint: Endpoint, client: Client) -> None:
    job = client.submit("a.svs")
    endpoint.faults = [lambda _: problem(502, "nobody there")]
    job = client.cancel(job)
    assert (job.state, job.has_failed, client.wait(job).state) == ("cancelled", True, "cancelled")


def test_a_batch(client: Client) -> None:
    batch = client.submit_batch(slides=[{"uri": "a.svs"}, {"uri": "b.svs", "mpp": 0.5}], bundles=["x"])
    slides = [{"uri": "a.svs"}, {"uri": "b.svs", "mpp": 0.5}]
    assert batch.record["asked"] == {"slides": slides, "bundles": ["x"]}
    assert not batch.has_ended
    batch = client.wait_batch(batch)
    assert (batch.counts["done"], batch.has_failed) == (2, True)
    with pytest.raises(InputError, match="one of these"):
        client.submit_batch(manifest="m.csv", prefix="s3://b/")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"idempotency_key": "a\r\nX: 1"}, "idempotency key"),
        ({"idempotency_key": "\N{SNOWMAN}"}, "idempotency key"),
        ({"mpp": float("nan")}, "a field cannot be sent"),
        ({"site": object()}, "a field cannot be sent"),
    ],
)
def test_what_cannot_be_sent(endpoint: Endpoint, client: Client, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        client.submit("a.svs", **fields)
    assert endpoint.seen == []


@pytest.mark.parametrize("job", ["", "..", "../tiles", "a/b", "a?b", "a b", "a\n"])
def test_an_id_that_would_lead_elsewhere(endpoint: Endpoint, client: Client, job: str) -> None:
    with pytest.raises(InputError, match="is not the id of a job"):
        client.cancel(job)
    assert endpoint.seen == []


def test_tiles_as_an_array_in_as_many_requests_as_it_takes(endpoint: Endpoint, client: Client) -> None:
    tiles = np.broadcast_to(np.arange(300, dtype=np.uint8)[:, None, None, None], (300, 8, 8, 3))
    endpoint.faults = [lambda _: problem(503, "busy")]
    scores = client.score(tiles, maps=True)
    assert [each.id for each in scores] == [str(i) for i in range(300)]
    assert (scores[0].score, scores[0].error, scores[7].score, scores[299].score) == (None, "black", 7.0, 43.0)
    assert scores[7].map is not None
    assert scores[7].map.tolist() == [[1.0, 2.0]]
    assert len(_asked(endpoint, "/v1/tiles/score")) == 3
    with pytest.raises(InputError, match=r"tiles float64 \[2, 8, 8, 3\]: expected uint8"):
        client.score(np.zeros((2, 8, 8, 3)))  # type: ignore[arg-type]


def test_tiles_as_files(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"123")
    scores = client.score([tmp_path / "a.png", b"123456"])
    assert [(each.id, each.score) for each in scores] == [("a.png", 4.0), ("1", 8.0)]
    with pytest.raises(InputError, match="no tile to score"):
        client.score([])
    with pytest.raises(InputError, match="No such file"):
        client.score([tmp_path / "b.png"])


def test_scores_of_two_bundles_are_not_mixed(endpoint: Endpoint, client: Client) -> None:
    endpoint.bundle_ids = ["b1", "b2"]
    with pytest.raises(WorkError, match="replaced meanwhile \\(b1 and b2\\)"):
        client.score(np.ones((300, 8, 8, 3), np.uint8))


def test_a_token_is_read_anew_and_shown_nowhere(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    monkeypatch.setenv("UADRAY_TOKEN", "from-the-environment")
    with running(endpoint) as port, Client(f"http://127.0.0.1:{port}", token_file=str(path)) as client:
        client.submit("a.svs")
        path.write_text("second\n")
        client.submit("b.svs")
        with Client(f"http://127.0.0.1:{port}") as other:
            other.submit("c.svs")
        assert "second" not in repr(client)
    sent = [headers["authorization"] for _, _, headers in endpoint.seen]
    assert sent == ["Bearer first", "Bearer second", "Bearer from-the-environment"]


def test_a_token_that_no_header_can_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one word of ASCII") as caught:
        Client("http://127.0.0.1:1", "secret\r\nX-Other: 1")
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match=r"token file .*No such file"):
        Client("http://127.0.0.1:1", token_file=str(tmp_path / "none"))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://a", "http://", "http://u:p@a", "http://a/?token=x", "http://[::"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(InputError, match=r"^endpoint"):
        Client(url)


def test_a_token_over_plain_http_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "uadray"):
        Client("http://10.0.0.1:8000", TOKEN).close()
        Client("https://10.0.0.2:8000", TOKEN).close()
        Client("http://localhost:8000", TOKEN).close()
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == ["http://10.0.0.1:8000"]


def test_only_a_trusted_certificate_is_talked_to(endpoint: Endpoint, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with running(endpoint, ssl_keyfile=str(key), ssl_certfile=str(cert)) as port:
        url = f"https://127.0.0.1:{port}"
        began = time.monotonic()
        with Client(url, TOKEN) as client, pytest.raises(InputError, match=r"certificate is not trusted .*cacert"):
            client.submit("a.svs")
        assert time.monotonic() - began < 5
        assert endpoint.seen == []
        with Client(url, TOKEN, cacert=str(cert)) as client:
            assert client.submit("a.svs").state == "waiting"
    with pytest.raises(InputError, match=r"cacert .*No such file"):
        Client(url, cacert=str(tmp_path / "none.pem"))


def test_failed_slides_have_no_score(endpoint: Endpoint, client: Client) -> None:
    endpoint.decisions = [failed()]
    job = client.wait(client.submit("a.svs"))
    assert (job.has_failed, repr(job)) == (True, f"<Job {job.id} done: failed(no_mpp)>")
    assert repr(client.decision(job)) == "<Decision a: no_mpp, p ->"
