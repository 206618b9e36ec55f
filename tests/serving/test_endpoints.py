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
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import uvicorn
from PIL import Image

from uadray.detectors.bundle import load_detector, read_bundle
from uadray.serving.base64_images import decode_tile
from uadray.serving.endpoints import build_http, digest
from uadray.serving.schemas import ServeConfig
from uadray.serving.stages import Scores, Whole
from uadray.tiles.images import Pixels
from uadray.tilesets.containers import list_tiles, read_tiles

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
        ("", "not an image that can be decoded; expected PNG or JPEG"),
        (base64.b64encode(b"GIF89a......").decode(), "not an image that can be decoded; expected PNG or JPEG"),
        (truncated, "image is damaged and cannot be decoded"),
        (base64.b64encode(base64.b64decode(encode(pixels[1]))[:-40]).decode(), "image is damaged"),
        (encode(pixels[1][:, :30]), "30 x 40 px, the bundle needs 40 px"),
        (png_claiming(257, 100), "257 x 100 px, at most 256 px a side are decoded"),
        (png_claiming(2**31 - 1, 2**31 - 1), "image claims more pixels than any tile has"),
    ):
        bad, good = ask(port, PATH, request(image, encode(pixels[0]))).body["scores"]
        assert bad["score"] is None
        assert error in bad["error"]
        assert (good["score"], good["error"]) == (pytest.approx(expected, abs=1e-5), None)


def png_of(width: int, height: int, value: int = 255) -> str:
    """A PNG of one colour: some kilobytes for many megapixels."""
    data: bytes = cv2.imencode(".png", np.full((height, width, 3), value, np.uint8))[1].tobytes()
    return base64.b64encode(data).decode()


@contextmanager
def peak_growth_mib() -> Iterator[list[float]]:
    """By how much this process's memory was at its greatest above what it had before; one number, in MiB."""

    def kib(field: str) -> int:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[field].split()[0])

    Path("/proc/self/clear_refs").write_text("5")
    before, growth = kib("VmRSS"), [0.0]
    yield growth
    growth[0] = (kib("VmHWM") - before) / 1024


def test_a_tile_does_not_keep_the_image_it_was_cut_from() -> None:
    image = png_of(1024, 1024)
    with peak_growth_mib() as growth:
        tiles = [decode_tile(image, tile_px=40, max_image_px=4096) for _ in range(30)]
    assert growth[0] < 40, "one image has 3 MiB, thirty 90"
    assert all(tile.base is None for tile in tiles)


def test_a_request_of_twenty_mib_that_claims_gigapixels_is_refused_unseen(
    bundles: dict[str, str], ask: Callable[..., Any]
) -> None:
    """256 images of 4096 x 4096 px would be 12 GiB."""
    body = json.dumps(request(*[png_of(4096, 4096)] * 256)).encode()
    assert 15 * 2**20 < len(body) < 32 * 2**20
    with serving(bundles["fanogan"]) as port, peak_growth_mib() as growth:
        answer = ask(port, PATH, body)
    assert answer.status == 413
    assert answer.body["error"] == (
        "images of 4294967296 pixels together; at most 67108864 in a request, send several, or tiles of 40 px"
    )
    assert growth[0] < 300


def test_as_many_pixels_as_may_be_are_decoded_one_image_after_the_other(
    bundles: dict[str, str], ask: Callable[..., Any]
) -> None:
    images = [png_of(1024, 1024)] * 16
    with serving(bundles["fanogan"], max_pixels_per_request=16 * 2**20) as port:
        with peak_growth_mib() as growth:
            answer = ask(port, PATH, request(*images, png_claiming(5000, 5000), png_claiming(8, 8)))
        assert ask(port, PATH, request(*images, png_of(40, 40))).status == 413
    errors = [tile["error"] for tile in answer.body["scores"]]
    assert errors[:16] == [None] * 16  # what is not decoded does not count
    assert all(errors[16:])
    assert growth[0] < 100


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK", "turned"])
def test_the_endpoint_and_a_tile_set_see_the_same_pixels(tmp_path: Path, pixels: Pixels, mode: str) -> None:
    """Whatever a file's colours are held in."""
    image, kind, options = Image.fromarray(pixels[0]), "PNG", {}
    match mode:
        case "RGBA" | "LA":
            image = image.convert(mode)
            image.putalpha(Image.fromarray(pixels[1][..., 0]))
        case "P":
            image, options = image.quantize(16), {"transparency": 3}
        case "I;16":
            image = Image.fromarray(pixels[0][..., 0].astype(np.uint16) * 257)
        case "CMYK":
            image, kind = image.convert("CMYK"), "JPEG"
        case "turned":
            exif = image.getexif()
            exif[0x0112] = 6
            kind, options = "JPEG", {"exif": exif}
    path = tmp_path / f"tile.{kind.lower()}"
    image.save(path, kind, **options)
    ((_, batch, _),) = read_tiles(str(tmp_path), list_tiles(str(tmp_path)))
    online = decode_tile(base64.b64encode(path.read_bytes()).decode(), tile_px=40, max_image_px=256)
    np.testing.assert_array_equal(online, batch)
    if mode in ("RGBA", "LA"):
        clear = pixels[1][..., 0] < 8
        assert clear.any()
        assert (online[clear] > 240).all(), "transparent is white"


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


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.1"},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=192.0.2.1"},
        {"X-Real-IP": "192.0.2.1"},
        {"Via": "1.1 proxy"},
        {"Host": "uadray.example.org"},
        {"Host": "192.0.2.7:8000"},
        {"Host": "localhost.example.org:8000"},
        {"Host": "[2001:db8::1]:8000"},
    ],
    ids=lambda headers: " ".join(f"{k}: {v}" for k, v in headers.items()),
)
def test_what_a_proxy_passes_on_needs_a_token(port: int, ask: Callable[..., Any], headers: dict[str, str]) -> None:
    """It comes from this machine, and whoever reaches the proxy has sent it."""
    answer = ask(port, PATH, b"{", **headers)
    assert answer.status == 401
    assert "UADRAY_TOKEN" in answer.body["error"]
    assert "\n" not in answer.body["error"]


def test_with_a_token_a_proxy_may_pass_requests_on(bundles: dict[str, str], ask: Callable[..., Any]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "192.0.2.1", "Host": "uadray.example.org"}
    with serving(bundles["fanogan"], token=TOKEN) as port:
        assert ask(port, PATH, b"{", **headers).status == 422


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_need_none(port: int, ask: Callable[..., Any], host: str) -> None:
    assert ask(port, PATH, b"{", Host=host).status == 422


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
