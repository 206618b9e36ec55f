"""Bodies that cannot be understood, or are too large, are refused in one line of JSON."""

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest
from serving_client import PATH, request


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 422, "body: Invalid JSON"),
        (b"\xff\xfe", 422, "body: Invalid JSON"),
        (b"[]", 422, "body: Input should be an object"),
        ({}, 422, "tiles: Field required"),
        ({"tiles": []}, 422, "tiles: List should have at least 1 item"),
        ({"tiles": [{"id": "a", "image": "x"}, {"id": "b"}]}, 422, "tiles.1.image: Field required"),
        ({"tiles": [{"id": 5, "image": "x"}]}, 422, "tiles.0.id: Input should be a valid string"),
        ({"tiles": [{"id": "a", "image": "x"}], "map": True}, 422, "map: Extra inputs are not permitted"),
        (request(*"xxxxx"), 413, "too many tiles; at most 4 in a request"),
        ({"tiles": [{"id": "a", "image": "x"}] * 5000}, 413, "body too large; at most 100000 bytes"),
    ],
)
def test_a_request_that_cannot_be_understood(
    port: int, ask: Callable[..., Any], body: Any, status: int, words: str
) -> None:
    answer = ask(port, PATH, body)
    assert answer.status == status
    assert set(answer.body) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert answer.body["status"] == status
    assert words in answer.body["detail"]
    assert "\n" not in answer.body["detail"]


def test_the_error_does_not_repeat_the_image(port: int, ask: Callable[..., Any]) -> None:
    assert "secret" not in json.dumps(ask(port, PATH, {"tiles": [{"id": "a", "image": ["secret"]}]}).body)


def test_a_large_body_is_refused_at_its_header(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("POST", PATH)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413  # not a byte of the body was sent
    connection.close()


def test_a_large_body_without_a_length_is_refused_while_it_comes(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("POST", PATH)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(3):  # and no last chunk: the body has not ended
        connection.send(b"%x\r\n" % 40_000 + b" " * 40_000 + b"\r\n")
    assert connection.getresponse().status == 413
    connection.close()
