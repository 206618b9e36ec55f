"""What every request gets, whatever its route: an id, security headers, an audit line, a problem if all else fails."""

import logging
import time
import traceback
from typing import final

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from uadray.serving.access.audit import write_line
from uadray.serving.exchange.headers import headers_for
from uadray.serving.exchange.refusals import problem_response
from uadray.serving.exchange.request_ids import HEADER, chosen_id, set_request_id

log = logging.getLogger("uadray.serving")


@final
class Envelope:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = chosen_id(Headers(scope=scope).get(HEADER, ""))
        set_request_id(scope, request_id)
        started, status, n_bytes = time.perf_counter(), 0, 0

        async def sent(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = request_id
                for name, value in headers_for(_path(scope)).items():
                    headers.setdefault(name, value)
            elif message["type"] == "http.response.body":
                n_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception as error:
            if status:
                raise
            _log_failure(request_id, error)
            response = problem_response(Request(scope), 500, "the server failed; its log says why")
            await response(scope, receive, sent)
        finally:
            write_line(scope, status=status or 499, bytes_sent=n_bytes, seconds=time.perf_counter() - started)


def _path(scope: Scope) -> str:
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) or "/"


def _log_failure(request_id: str, error: Exception) -> None:
    """Log where it failed; not its message, which may have values of the request."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
    log.error("request %s: %s at %s", request_id, type(error).__name__, " < ".join(reversed(places)))
