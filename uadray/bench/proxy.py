"""A TCP proxy that makes a server far away: every round trip takes longer, the bandwidth stays as it is. It counts.

Linux does this with netem, which needs a kernel module and rights that a benchmark cannot ask for.
"""

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_READ_BYTES = 2**20


class DelayProxy:
    """Listens on 127.0.0.1 and passes on what comes, half a round trip later; runs in a thread until it is left.

    A new connection costs a round trip more, as TCP's handshake does.

    Args:
        port: where the server listens, on 127.0.0.1.
        round_trip_s: how far away it is.

    Attributes:
        endpoint: URL of the proxy.
        received: bytes that clients have got so far.
        connections: that clients have opened.
    """

    def __init__(self, port: int, *, round_trip_s: float) -> None:
        self.endpoint, self.received, self.connections = "", 0, 0
        self._port, self._delay_s = port, round_trip_s / 2
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delay-proxy", daemon=True)

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_READ_BYTES))
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        server.close()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.sleep(2 * self._delay_s)
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port, limit=_READ_BYTES)
            await asyncio.gather(
                self._pass_on(from_client, to_server, count=False), self._pass_on(from_server, to_client, count=True)
            )

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, count: bool) -> None:
        """Read as fast as it comes, and write each piece when its time has come."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        writer = asyncio.ensure_future(self._write(pieces, sink, count=count))
        try:
            while data := await source.read(_READ_BYTES):
                await pieces.put((self._loop.time() + self._delay_s, data))
            await pieces.put((self._loop.time() + self._delay_s, b""))
            await writer
        finally:
            writer.cancel()
            sink.close()

    async def _write(
        self, pieces: "asyncio.Queue[tuple[float, bytes]]", sink: asyncio.StreamWriter, *, count: bool
    ) -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if not data:
                return
            sink.write(data)
            self.received += len(data) if count else 0
            await sink.drain()
