"""A store that redirects is not followed to another host: neither by obstore nor by boto3, whatever is asked of it."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from uadray.errors import AccessError
from uadray.storage import objects


class _Inside(BaseHTTPRequestHandler):
    """What only this machine reaches, as the address that gives clouds' credentials: 200 to everything."""

    def do_GET(self) -> None:
        self.server.asked.append(self.command)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"SECRET")

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None: ...


class _Store(_Inside):
    """Redirects everything there, the region of Amazon's redirects beside."""

    def do_GET(self) -> None:
        self.server.asked.append(self.command)  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Location", f"{self.server.location}{self.path}")  # type: ignore[attr-defined]
        self.send_header("x-amz-bucket-region", "eu-west-1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The store, on 127.0.0.2, and what is inside, on 127.0.0.1."""
    inside, store = (ThreadingHTTPServer(place, kind) for place, kind in (
        (("127.0.0.1", 0), _Inside), (("127.0.0.2", 0), _Store),
    ))  # fmt: skip
    for server in (inside, store):
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    store.location = f"http://127.0.0.1:{inside.server_port}"  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.2:{store.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield store, inside
    for server in (store, inside):
        server.shutdown()
        server.server_close()


URI = "s3://bucket/slides/a.svs"

CALLS: dict[str, Callable[[], Any]] = {
    "stat": lambda: objects.stat(URI),
    "read": lambda: objects.read_bytes(URI),
    "ranges": lambda: objects.read_ranges(URI, [(0, 5)], etag=None),
    "list": lambda: list(objects.list_objects("s3://bucket/slides")),
    "put": lambda: objects.put_if_absent(URI, b"{}"),
}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_another_host_is_never_asked(servers: tuple[Any, Any], status: int) -> None:
    store, inside = servers
    store.status = status
    for name in CALLS if status == 307 else ("stat", "read"):
        store.asked.clear()
        with pytest.raises(AccessError, match="it redirects to another address, which is not followed"):
            CALLS[name]()
        assert store.asked
    assert inside.asked == []


def test_the_link_local_address_of_clouds_is_not_asked_either(servers: tuple[Any, Any]) -> None:
    """Nobody answers there on most machines: what is proved is that the error is about the redirect, and comes soon."""
    store, _ = servers
    store.status, store.location = 307, "http://169.254.169.254/latest/meta-data/iam?"
    with pytest.raises(AccessError, match="not followed"):
        objects.read_bytes(URI)


def test_whoever_has_a_proxy_keeps_it(servers: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go through it as before; here it is the server that answers, which a store is not asked for."""
    store, inside = servers
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{inside.server_port}")
    assert objects.read_bytes(URI) == b"SECRET"
    assert inside.asked
    assert store.asked == []
