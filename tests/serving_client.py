"""An endpoint on a real port without Ray, and the requests and images that tests send to it."""

import asyncio
import base64
import http.client
import json
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import uvicorn

from uadray.detectors.detector import STAGES, Detector
from uadray.serving.access.callers import Access
from uadray.serving.access.tokens import SCOPES, FixedTokens, Token, TokenSource, digest
from uadray.serving.config import ServeConfig
from uadray.serving.http import build_http
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import RegisteredBundle, Registry
from uadray.serving.scores import Scores, Wanted
from uadray.serving.services import Services
from uadray.serving.stages.loaded_stages import load_stages, scored_at_once
from uadray.serving.views.slide_views import SlideViews
from uadray.tiles.images import Pixels

PATH = "/v1/tiles/score"
TOKEN = "correct-horse"


class PlainScorer:
    """The stages in this process: what `Services.score` is without Ray."""

    def __init__(self) -> None:
        self.loaded: dict[str, Detector] = {}

    async def __call__(self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        return await asyncio.to_thread(self._score, bundle, pixels, wanted)

    def _score(self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        if bundle.model_id not in self.loaded:
            self.loaded[bundle.model_id] = load_stages(bundle.model_id, STAGES, device="cpu")
        return scored_at_once(self.loaded[bundle.model_id], [(pixels, wanted)])[0]


def all_scopes(token: str) -> TokenSource:
    """One token, which allows everything."""
    return FixedTokens((Token("test", SCOPES, digest(token)),))


def plain_services(config: ServeConfig, *, tokens: TokenSource | None = None, **parts: Any) -> Services:
    """The parts of an endpoint without Ray; `parts` replaces some. Without tokens this machine alone is answered."""

    async def ready() -> bool:
        return True

    registry = Registry(config.out, default=config.default_bundle)
    registry.put_configured(config.bundles)
    given = {
        "jobs": Jobs(config.out), "views": SlideViews(), "score": PlainScorer(), "ready": ready, "registry": registry,
    }  # fmt: skip
    return Services(config=config, access=Access(tokens), **(given | parts))


@contextmanager
def listening(services: Services, *, port: int = 0) -> Iterator[int]:
    """The application of these parts on a free port of 127.0.0.1, or on this one; streams are cut off at the end."""
    options = {"log_config": None, "ws": "none", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(build_http(services), port=port, **options))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(
    bundle_uri: str, *, token: str | None = None, parts: dict[str, Any] | None = None, **fields: Any
) -> Iterator[int]:
    """An endpoint with one bundle, `main`, on a free port; `fields` are of its configuration."""
    with tempfile.TemporaryDirectory() as folder:
        config = ServeConfig(**({"out": folder, "bundles": {"main": bundle_uri}, "insecure": token is None} | fields))
        services = plain_services(config, tokens=all_scopes(token) if token else None, **(parts or {}))
        with listening(services) as port:
            yield port


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
    """Status, JSON and headers of an answer."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def ask(port: int, path: str, body: Any = None, *, method: str = "", **headers: str) -> Answer:
    """POST a JSON value, or bytes as they are, to `http://127.0.0.1:port/path`; GET where there is no body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
        response = connection.getresponse()
        text = response.read()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, json.loads(text) if text else {}, told)
    finally:
        connection.close()


def encode(tile: Pixels, suffix: str = ".png") -> str:
    """RGB -> base64 of a PNG, or of a JPEG."""
    data: bytes = cv2.imencode(suffix, np.ascontiguousarray(tile[..., ::-1]))[1].tobytes()
    return base64.b64encode(data).decode()
