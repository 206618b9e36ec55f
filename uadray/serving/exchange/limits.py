"""What an ingress replica holds at a time: bytes of bodies, pixels of images, requests. All of it is bounded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from uadray.serving.access.audit import set_caller
from uadray.serving.exchange.refusals import RefusedError

RETRY_AFTER = {"Retry-After": "1"}


@final
class BodyLimits:
    """ASGI middleware: of a body nothing is read before it is known who sends it, and that it is not too large.

    One without a length is refused as soon as too much of it has come. What all bodies have together is bounded too.
    Routes may leave their bodies to FastAPI, which reads them before it looks at anything else.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_bytes_in_flight: int, check: Callable[[Request], object]
    ) -> None:
        """Take the limits, and what raises where nobody is known to have sent a request."""
        self.app, self.check = app, check
        self.max_body_bytes, self.max_bytes_in_flight = max_body_bytes, max_bytes_in_flight
        self.in_flight_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on whose body is counted while it is read, until its answer is sent."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        has_body = declared not in ("", "0") or "transfer-encoding" in Headers(scope=scope)
        read, reserved, is_checked = 0, 0, False

        def reserve(n_bytes: int) -> None:
            nonlocal reserved
            if n_bytes > self.max_body_bytes:
                raise RefusedError(413, f"body too large; at most {self.max_body_bytes} bytes, send several requests")
            if self.in_flight_bytes + n_bytes - reserved > self.max_bytes_in_flight:
                raise RefusedError(
                    429, f"more than {self.max_bytes_in_flight} bytes are being received; try again in a moment",
                    RETRY_AFTER,
                )  # fmt: skip
            self.in_flight_bytes += n_bytes - reserved
            reserved = n_bytes

        async def counted() -> Message:
            nonlocal read, is_checked
            if has_body and not is_checked:
                set_caller(scope, None)
                self.check(Request(scope))
                is_checked = True
            if not reserved and declared.isdecimal():
                # More digits than any length has: an int of a million digits takes long to make.
                reserve(int(declared) if len(declared) < 20 else self.max_body_bytes + 1)
            message = await receive()
            read += len(message.get("body", b""))
            if read > reserved:
                reserve(read)
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.in_flight_bytes -= reserved


@final
class Held:
    """Pixels that a request holds."""

    def __init__(self, room: "PixelRoom", pixels: int) -> None:
        self._room, self.pixels = room, pixels

    def keep(self, pixels: int) -> None:
        """Give back all but these."""
        freed = self.pixels - min(pixels, self.pixels)
        self.pixels -= freed
        self._room.free(freed)


@final
class PixelRoom:
    """Pixels of all requests together, first come, first served: a large request is not overtaken for ever."""

    def __init__(self, max_pixels: int) -> None:
        self.left = max_pixels
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def holding(self, pixels: int) -> AsyncIterator[Held]:
        """Wait until there is room for these pixels, and hold it. They must be no more than all the room."""
        async with self._turn:
            while self.left < pixels:
                self._freed.clear()
                await self._freed.wait()
            self.left -= pixels
        held = Held(self, pixels)
        try:
            yield held
        finally:
            held.keep(0)

    def free(self, pixels: int) -> None:
        """Give pixels back."""
        self.left += pixels
        self._freed.set()


@final
class RequestGate:
    """Admits so many requests at a time; the next is refused before its body is read."""

    def __init__(self, most: int) -> None:
        self.left = most

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Be one of them.

        Raises:
            RefusedError: 429.
        """
        if self.left <= 0:
            raise RefusedError(429, "too many requests are at work here; try again in a moment", RETRY_AFTER)
        self.left -= 1
        try:
            yield
        finally:
            self.left += 1
