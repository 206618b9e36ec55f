"""The HTTP side on a real port, without Ray: what is refused, with which words, and what a bad tile does to others."""

import asyncio
import base64
import http.client
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import uvicorn

from uadray.bundle import load_detector, read_bundle
from uadray.models.pixels import Pixels
from uadray.serving.deployments import Scores, Whole
from uadray.serving.endpoints import build_http, digest
from uadray.serving.schemas import ServeConfig

PATH = "/v1/tiles/score"
TOKEN = "correct-horse"


@contextmanager
def serving(bundle_uri: str, *, token: str | None = None, score: Any = None, **limits: Any) -> Iterator[int]:
    """The application of a bundle on a free port of 127.0.0.1."""
    config, bundle = ServeConfig(bundle=bundle_uri, **limits), read_bundle(bundle_uri)
    whole = None if score else Whole(bundle_uri, bundle)

    async def scored(pixels: Pixels, maps: bool) -> Scores:
        return await asyncio.to_thread(whole, pixels, maps=maps)

    async def ready() -> bool:
        return True

    app = build_http(
        config, bundle, token_digest=digest(token) if token else None, score=score or scored, ready=ready
    )  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(bundles: dict[str, str]) -> Iterator[int]:
    with serving(bundles["fanogan"], max_tiles_per_request=4, max_body_bytes=100_000, max_image_px=256) as found:
        yield found


def request(*images: str) -> dict[str, Any]:
    return {"tiles": [{"id": f"t{i}", "image": image} for i, image in enumerate(images)]}


def png_claiming(width: int, height: int) -> str:
    """A PNG of a hundred bytes or so whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def test_scores_are_the_detectors_and_larger_tiles_are_cropped(
    bundles: dict[str, str], port: int, pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    framed = np.pad(pixels[0], ((3, 4), (5, 6), (0, 0)))
    answer = ask(port, PATH, request(*map(encode, pixels[:3]), encode(framed)))
    assert answer.status == 200
    assert answer.body["bundle_id"] == read_bundle(bundles["fanogan"]).id
    expected = load_detector(bundles["fanogan"])(np.concatenate([pixels[:3], pixels[:1]])).score
    assert [s["score"] for s in answer.body["scores"]] == pytest.approx(expected, abs=1e-5)
    assert [set(s) for s in answer.body["scores"]] == [{"id", "score", "error"}] * 4


def test_maps_come_when_asked_for(
    bundles: dict[str, str], port: int, pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    answer = ask(port, PATH, request(encode(pixels[0]), "?") | {"maps": True})
    first, second = (s["map"] for s in answer.body["scores"])
    residual = np.frombuffer(base64.b64decode(first["float32"]), "<f4").reshape(first["shape"])
    assert np.allclose(residual, load_detector(bundles["fanogan"])(pixels[:1]).residual[0], atol=1e-5)
    assert second is None


def test_a_bad_tile_gets_an_error_and_the_others_their_scores(
    bundles: dict[str, str], port: int, pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    truncated = base64.b64encode(base64.b64decode(encode(pixels[1], ".jpg"))[:-40]).decode()
    expected = load_detector(bundles["fanogan"])(pixels[:1]).score[0]
    for image, error in (
        ("not base64!", "image is not base64"),
        ("", "image is neither PNG nor JPEG"),
        (base64.b64encode(b"GIF89a......").decode(), "image is neither PNG nor JPEG"),
        (truncated, "image is damaged and cannot be decoded"),
        (base64.b64encode(base64.b64decode(encode(pixels[1]))[:-40]).decode(), "image is damaged"),
        (encode(pixels[1][:, :30]), "30 x 40 px, the bundle needs 40 px"),
        (png_claiming(257, 100), "257 x 100 px, at most 256 px a side are decoded"),
        (png_claiming(2**31 - 1, 2**31 - 1), "at most 256 px a side are decoded"),
    ):
        bad, good = ask(port, PATH, request(image, encode(pixels[0]))).body["scores"]
        assert bad["score"] is None
        assert error in bad["error"]
        assert (good["score"], good["error"]) == (pytest.approx(expected, abs=1e-5), None)


def test_a_score_that_is_no_number_is_an_error(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    async def broken(pixels: Pixels, maps: bool) -> Scores:
        return Scores(np.array([np.nan, 1.5]), None)

    with serving(bundles["fanogan"], score=broken) as port:
        bad, good = ask(port, PATH, request(encode(pixels[0]), encode(pixels[1]))).body["scores"]
    assert (bad["score"], bad["error"]) == (None, "the detector gave nan, which is no score")
    assert good["score"] == 1.5


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
    assert set(answer.body) == {"error"}
    assert words in answer.body["error"]
    assert "\n" not in answer.body["error"]


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


def test_the_token(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    body = request(encode(pixels[0]))
    with serving(bundles["fanogan"], token=TOKEN) as port:
        for wrong in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
        ):
            answer = ask(port, PATH, body, **wrong)
            assert answer.status == 401
            assert "Authorization: Bearer" in answer.body["error"]
        assert ask(port, PATH, b"{", Authorization="Bearer wrong").status == 401  # before the body is looked at
        assert ask(port, PATH, body, Authorization=f"Bearer {TOKEN}").status == 200
        assert ask(port, "/healthz").status == 200


def test_overload_and_timeout(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    async def stuck(pixels: Pixels, maps: bool) -> Scores:
        await asyncio.sleep(60)
        raise AssertionError

    body = request(encode(pixels[0]))
    limits = {"max_ongoing_requests": 1, "max_queued_requests": 1, "request_timeout_s": 2}
    with serving(bundles["fanogan"], score=stuck, **limits) as port:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port, PATH, body))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ask(port, "/healthz").status == 200
        assert ask(port, PATH, b"{").status == 422  # there is room again
    assert sorted(a.status for a in answers) == [408, 408, 503, 503]
    assert {a.body["error"] for a in answers} == {
        "no answer within 2 s; send fewer tiles", "too many requests are waiting; try again in a moment"
    }  # fmt: skip


def test_health_schema_and_no_pages_from_elsewhere(bundles: dict[str, str], port: int, ask: Callable[..., Any]) -> None:
    assert ask(port, "/healthz").body == {
        "status": "ok", "bundle_id": read_bundle(bundles["fanogan"]).id, "name": "fanogan", "tile_px": 40, "mpp": 1.0,
    }  # fmt: skip
    schema = ask(port, "/openapi.json").body
    body = schema["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"tiles", "maps"}
    for missing in ("/docs", "/redoc", "/elsewhere"):
        assert ask(port, missing) == (404, {"error": "Not Found"})
