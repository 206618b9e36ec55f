"""A real HTTP proxy in front of the S3 server that misbehaves on demand: answers 503, cuts connections, waits, counts.

Clients take it for the endpoint. Requests are passed on byte for byte with their Host, which SigV4 signs.
"""

import http.client
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

Fault = Callable[["Request"], str | None]
"""What to do with a request: None passes it on, `cut` breaks off in the middle of the answer, `reset` before it,
`unconditional` passes it on without its conditions, and anything else is the code of a 503, or of another status where
it begins with one (`400 ExpiredToken`). It may wait before it answers."""

_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


class Request:
    """One request.

    Attributes:
        method: GET, PUT, ...
        path: without the query.
        byte_range: what the header Range says.
        number: the how-manieth of this method and path, from 1.
        conditions: the names of its conditional headers, in lower case.
        status: of the answer; 0 where there was none.
    """

    def __init__(
        self, method: str, path: str, byte_range: str | None, number: int, conditions: frozenset[str] = frozenset()
    ) -> None:
        self.method, self.path, self.byte_range, self.number = method, path, byte_range, number
        self.conditions = conditions
        self.status = 0


class FaultProxy:
    """Listens on 127.0.0.1 until closed.

    Attributes:
        endpoint: its URL.
        requests: all requests so far.
        faults: how often each fault was done.
    """

    def __init__(self, upstream: str, fault: Fault = lambda request: None) -> None:
        self.fault = fault
        self.requests: list[Request] = []
        self.faults: dict[str, int] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self, "upstream": urlsplit(upstream).netloc})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def gets(self, name: str) -> list[Request]:
        """The reads of an object so far, by the end of its path."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(name)]

    def arrived(
        self, method: str, path: str, byte_range: str | None, conditions: frozenset[str]
    ) -> tuple[Request, str | None]:
        """Note a request and decide what becomes of it."""
        with self._lock:
            number = 1 + sum(r.method == method and r.path == path for r in self.requests)
            request = Request(method, path, byte_range, number, conditions)
            self.requests.append(request)
        fault = self.fault(request)
        if fault:
            with self._lock:
                self.faults[fault] = self.faults.get(fault, 0) + 1
        return request, fault

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ClassVar[FaultProxy]
    upstream: ClassVar[str]
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # the client is gone, or has been cut off
            super().handle()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        conditions = frozenset(name.lower() for name in self.headers if name.lower().startswith("if-"))
        path, byte_range = urlsplit(self.path).path, self.headers.get("Range")
        request, fault = self.proxy.arrived(self.command, path, byte_range, conditions)
        if fault == "reset":
            self._cut()
        elif fault == "unconditional":
            request.status = self._pass_on(body, self._without_conditions(body), cut=False)
        elif fault not in (None, "cut"):
            self._refuse(str(fault))
        else:
            request.status = self._pass_on(body, dict(self.headers.items()), cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - names that http.server looks for

    def _without_conditions(self, body: bytes) -> dict[str, str]:
        """The headers without conditions, signed anew, since the signature is over them too."""
        import boto3
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("if-")}
        kept = {name: value for name, value in headers.items() if name.lower() not in ("authorization", "host")}
        request = AWSRequest(self.command, f"http://{self.upstream}{self.path}", headers=kept, data=body)
        S3SigV4Auth(boto3.Session().get_credentials(), "s3", "us-east-1").add_auth(request)
        return {"Host": self.upstream, **dict(request.headers.items())}

    def _pass_on(self, body: bytes, headers: dict[str, str], *, cut: bool) -> int:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self._cut()  # the server is down: so is the way to it
            return 0
        finally:
            connection.close()
        self.send_response_only(answer.status, answer.reason)
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(data))
        for name, value in answer.headers.items():
            if name.lower() not in (*_HOP, "content-length"):
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self._cut()
        else:
            self.wfile.write(data)
        return answer.status

    def _refuse(self, fault: str) -> None:
        status, _, code = fault.rpartition(" ")
        text = f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode()
        self.send_response_only(int(status or 503))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _cut(self) -> None:
        """Close with a reset, as a cable does not and a load balancer does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
