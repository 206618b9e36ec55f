"""What a proxy answers where what had the request is gone, and what it leaves as it is."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from uadray.serving.stages.proxy_answers import middlewares


def answered(*messages: Message) -> list[Message]:
    """What comes of a request that an application answers so."""
    got: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        got.append(message)

    (middleware,) = middlewares()
    app = middleware.cls(application, *middleware.args, **middleware.kwargs)
    asyncio.run(app({"type": "http", "path": "/v1/tiles/score"}, receive, send))
    return got


def start(status: int, **headers: str) -> Message:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


BODY: dict[str, Any] = {"type": "http.response.body", "body": b"scores"}


def test_a_request_without_an_answer_may_be_sent_again() -> None:
    first, body = answered()
    headers = dict(first["headers"])
    assert (first["status"], headers[b"retry-after"]) == (503, b"1")
    assert headers[b"content-type"] == b"application/problem+json"
    assert int(headers[b"content-length"]) == len(body["body"])
    problem = json.loads(body["body"])
    assert (problem["status"], problem["instance"]) == (503, "/v1/tiles/score")


def test_an_endpoint_that_is_not_there_yet_is_asked_again() -> None:
    first, body = answered(start(404, content_type="text/plain"), BODY)
    assert (first["status"], dict(first["headers"])[b"retry-after"]) == (503, b"1")
    assert "being started" in json.loads(body["body"])["detail"]
    ours = start(404, content_type="application/problem+json")
    assert answered(ours, BODY) == [ours, BODY]


@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_answer_stays_as_it_is(status: int) -> None:
    assert answered(start(status, a="b"), BODY) == [start(status, a="b"), BODY]


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_says_when(status: int) -> None:
    assert answered(start(status), BODY)[0] == start(status, retry_after="1")
    assert answered(start(status, retry_after="7"), BODY)[0] == start(status, retry_after="7")
