"""The HTTP side on a real port, without Ray: overload, timeout, health and schema."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from serving_client import PATH, request, serving

from uadray.detectors.bundle import read_bundle
from uadray.serving.stages import Scores
from uadray.tiles.images import Pixels


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
