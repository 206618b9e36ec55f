"""What Serve's proxy answers by itself, in the manner of the rest: where the replica that had a request died.

Serve ends such a request without an answer, and the server makes `500 Internal Server Error` of that. Nothing is wrong
with the request: it may be sent again, as 503 and Retry-After say. Serve calls `middlewares` in each proxy of a cluster
that was started with `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, see `server.ENVIRONMENT`.
"""

import http
import json
from typing import final

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER_S = 1

DETAIL = "what had this request has died; send it again in a moment"


def middlewares() -> list[Middleware]:
    """What every request passes in a proxy."""
    return [Middleware(Unanswered)]


@final
class Unanswered:
    """ASGI middleware: no request ends without an answer, and no 503 without Retry-After."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_answered = False

        async def sent(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            if message["type"] == "http.response.start" and message["status"] in (429, 503):
                MutableHeaders(scope=message).setdefault("retry-after", str(RETRY_AFTER_S))
            await send(message)

        await self.app(scope, receive, sent)
        if not is_answered:
            await _answer(scope, sent)


async def _answer(scope: Scope, send: Send) -> None:
    problem = {
        "type": "about:blank", "title": http.HTTPStatus.SERVICE_UNAVAILABLE.phrase, "status": 503, "detail": DETAIL,
        "instance": scope["path"],
    }  # fmt: skip
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
