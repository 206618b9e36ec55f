"""An endpoint on a real port without Ray, and the requests and images that tests send to it."""

import asyncio
import base64
import http.client
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import uvicorn

from uadray.detectors.bundle import read_bundle
from uadray.serving.access import digest
from uadray.serving.config import ServeConfig
from uadray.serving.endpoints import build_http
from uadray.serving.stages import AllStages, Scores
from uadray.tiles.images import Pixels

PATH = "/v1/tiles/score"
TOKEN = "correct-horse"


@contextmanager
def serving(bundle_uri: str, *, token: str | None = None, score: Any = None, **limits: Any) -> Iterator[int]:
    """The application of a bundle on a free port of 127.0.0.1."""
    config, bundle = ServeConfig(bundle=bundle_uri, **limits), read_bundle(bundle_uri)
    whole = None if score else AllStages(bundle_uri, bundle)

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


def request(*images: str) -> dict[str, Any]:
    return {"tiles": [{"id": f"t{i}", "image": image} for i, image in enumerate(images)]}


def png_claiming(width: int, height: int) -> str:
    """A PNG of a hundred bytes or so whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


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


class Answer(NamedTuple):
    """Status and JSON of an answer."""

    status: int
    body: dict[str, Any]


def ask(port: int, path: str, body: Any = None, **headers: str) -> Answer:
    """POST a JSON value, or bytes as they are, to `http://127.0.0.1:port/path`; GET where there is no body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request("GET" if body is None else "POST", path, data, headers)
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()))
    finally:
        connection.close()


def encode(tile: Pixels, suffix: str = ".png") -> str:
    """RGB -> base64 of a PNG, or of a JPEG."""
    data: bytes = cv2.imencode(suffix, np.ascontiguousarray(tile[..., ::-1]))[1].tobytes()
    return base64.b64encode(data).decode()
