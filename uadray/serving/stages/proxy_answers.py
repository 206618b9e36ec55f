"""What Serve's proxy answers by itself, in the manner of the rest: the replica has died, or there is none yet.

Serve ends a request whose replica died without an answer, and the server makes `500 Internal Server Error` of that; it
answers 404 in plain text while the endpoint is being started. Nothing is wrong with such a request: it may be sent
again, as 503 and Retry-After say. Serve calls `middlewares` in each proxy of a cluster that was started with
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, see `server.ENVIRONMENT`.
"""

import http
import json
from typing import final

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER_S = 1

DIED = "what had this request has died; send it again in a moment"
AWAY = "the endpoint is being started; send it again in a moment"


def middlewares() -> list[Middleware]:
    """What every request passes in a proxy."""
    return [Middleware(Unanswered)]


@final
class Unanswered:
    """ASGI middleware: no request ends without an answer, none with a 404 of the proxy, no 503 without Retry-After."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_answered = is_away = False

        async def sent(message: Message) -> None:
            nonlocal is_answered, is_away
            is_away = is_away or _is_of_the_proxy(message)
            if is_away:
                return
            is_answered = True
            if message["type"] == "http.response.start" and message["status"] in (429, 503):
                MutableHeaders(scope=message).setdefault("retry-after", str(RETRY_AFTER_S))
            await send(message)

        await self.app(scope, receive, sent)
        if not is_answered:
            await _answer(scope, send, AWAY if is_away else DIED)


def _is_of_the_proxy(message: Message) -> bool:
    """Whether it begins a 404 that is not the endpoint's: all of its are problem+json."""
    if message["type"] != "http.response.start" or message["status"] != 404:
        return False
    return any(name == b"content-type" and value.startswith(b"text/plain") for name, value in message["headers"])


async def _answer(scope: Scope, send: Send, detail: str) -> None:
    problem = {
        "type": "about:blank", "title": http.HTTPStatus.SERVICE_UNAVAILABLE.phrase, "status": 503, "detail": detail,
        "instance": scope["path"],
    }  # fmt: skip
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
