"""Every answer has an id and security headers, and every failure is a problem that says nothing of what failed."""

import http.client
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving_client import PATH, request, serving

from uadray.errors import AccessError, UnreachableError
from uadray.serving.scores import Scores
from uadray.tiles.images import Pixels


@pytest.fixture
def failing(bundles: dict[str, str]) -> Iterator[tuple[int, list[Exception]]]:
    """An endpoint whose stages raise what a test puts into the list."""
    errors: list[Exception] = []

    async def score(*_: Any) -> Scores:
        raise errors[0]

    with serving(bundles["fanogan"], parts={"score": score}) as port:
        yield port, errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("secret /data/Jane Doe.svs"), 500),
        (ValueError("secret"), 500),
        (UnreachableError("s3://secret/x: no answer"), 503),
        (AccessError("s3://secret/x: refused"), 503),
    ],
)
def test_a_failure_is_a_problem_and_the_log_knows_where(
    failing: tuple[int, list[Exception]], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any],
    caplog: pytest.LogCaptureFixture, error: Exception, status: int,
) -> None:  # fmt: skip
    port, errors = failing
    errors.append(error)
    answer = ask(port, PATH, request(encode(pixels[0])), **{"X-Request-ID": "r-1"})
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body | {"detail": ""} == {
        "type": "about:blank", "title": {500: "Internal Server Error", 503: "Service Unavailable"}[status],
        "status": status, "detail": "", "instance": PATH, "request_id": "r-1",
    }  # fmt: skip
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "secret" not in str(answer)
    lines = [record.getMessage() for record in caplog.records if record.name == "uadray.serving"]
    assert any("r-1" in line and type(error).__name__ in line for line in lines)
    assert "secret" not in caplog.text


def test_every_answer_has_an_id_and_may_do_nothing(port: int, ask: Callable[..., Any]) -> None:
    for path, body in (("/healthz", None), ("/nope", None), (PATH, b"{"), ("/openapi.json", None)):
        headers = ask(port, path, body).headers
        assert len(headers["x-request-id"]) == 16
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers or "uvicorn" in headers["server"]


def test_the_page_loads_from_this_server_alone(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    policy = answer.headers["content-security-policy"]
    connection.close()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("asked", ["a b", "x" * 65, "", "a\tb", "-x", "\u00e9"])
def test_an_id_that_logs_cannot_carry_is_replaced(port: int, ask: Callable[..., Any], asked: str) -> None:
    assert ask(port, "/healthz", **{"X-Request-ID": "ok-1:2.3"}).headers["x-request-id"] == "ok-1:2.3"
    given = ask(port, "/healthz", **{"X-Request-ID": asked}).headers["x-request-id"]
    assert len(given) == 16
    assert given != asked


def test_health_and_readiness_are_two(bundles: dict[str, str], ask: Callable[..., Any]) -> None:
    answers = iter([False, True])

    async def ready() -> bool:
        return next(answers)

    with serving(bundles["fanogan"], parts={"ready": ready}) as port:
        assert ask(port, "/healthz").body == {"status": "ok"}
        starting, started = ask(port, "/readyz"), ask(port, "/readyz")
    assert (starting.status, starting.body["status"]) == (503, "starting")
    assert (started.status, started.body["status"]) == (200, "ready")
    (bundle,) = started.body["bundles"]
    assert (bundle["name"], bundle["tile_px"], bundle["mpp"]) == ("main", 40, 1.0)


def test_there_are_no_pages_from_elsewhere(port: int, ask: Callable[..., Any]) -> None:
    for missing in ("/docs", "/redoc", "/elsewhere"):
        answer = ask(port, missing)
        assert (answer.status, answer.body["title"]) == (404, "Not Found")
    assert ask(port, PATH, method="GET").status == 405


def test_lines_of_a_log_cannot_be_forged(port: int, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "uadray.serving"):
        ask(port, "/v1/bundles/main%0Auadray.audit%20forged", method="DELETE")
        deadline = time.monotonic() + 5
        while not (lines := uadray_lines(caplog)) and time.monotonic() < deadline:
            time.sleep(0.01)  # the line is written when the answer is on its way
    assert lines
    assert all("\n" not in line and "forged" not in line for line in lines)


def uadray_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("uadray")]
