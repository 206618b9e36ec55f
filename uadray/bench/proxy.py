"""A TCP proxy that makes each round trip to a server longer, leaves the bandwidth as it is, and counts bytes.

Linux does this with netem, which needs a kernel module and rights that a benchmark cannot ask for.
"""

import asyncio
import multiprocessing
from collections import deque
from functools import partial
from types import TracebackType
from typing import Any, Self


class DelayProxy:
    """Listens on 127.0.0.1 and passes on what comes, half a round trip later. It runs in a separate process.

    A new connection costs a round trip more, as TCP's handshake does. All that is on its way is held in memory, however
    far the receiver lags behind, which suits benchmarks that read tens of megabytes.

    Args:
        port: where the server listens, on 127.0.0.1.
        round_trip_s: how much longer a round trip takes.

    Attributes:
        endpoint: URL of the proxy.
    """

    def __init__(self, port: int, *, round_trip_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.endpoint = ""
        self._received, self._connections = context.Value("q", 0), context.Value("q", 0)
        self._port, sender = context.Pipe(duplex=False)
        counters = (self._received, self._connections)
        self._process = context.Process(target=_run, args=(port, round_trip_s / 2, counters, sender), daemon=True)

    @property
    def received(self) -> int:
        """Bytes that clients have got so far."""
        return int(self._received.value)

    @property
    def connections(self) -> int:
        """Connections that clients have opened so far."""
        return int(self._connections.value)

    def __enter__(self) -> Self:
        """Start to listen."""
        self._process.start()
        self.endpoint = f"http://127.0.0.1:{self._port.recv()}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut all connections."""
        self._process.terminate()
        self._process.join()
        self._process.close()
        self._port.close()


def _run(port: int, delay_s: float, counters: tuple[Any, Any], ready: Any) -> None:
    asyncio.run(_serve(port, delay_s, counters, ready))


async def _serve(port: int, delay_s: float, counters: tuple[Any, Any], ready: Any) -> None:
    received, connections = counters
    loop = asyncio.get_running_loop()

    async def connect(client: "_Side") -> None:
        connections.value += 1
        await asyncio.sleep(2 * delay_s)
        _, server = await loop.create_connection(partial(_Side, delay_s, received), "127.0.0.1", port)
        server.join(client)
        client.join(server)

    listening = await loop.create_server(lambda: _Side(delay_s, None, connect), "127.0.0.1", 0)
    ready.send(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


class _Side(asyncio.Protocol):
    """One end of a connection: what it receives, the other end sends `delay_s` later, in the same order."""

    def __init__(self, delay_s: float, count: Any, connected: Any = None) -> None:
        self._delay_s, self._count, self._connected = delay_s, count, connected
        self._other: _Side | None = None
        self._said: deque[bytes] = deque()
        self._due = 0
        self._task: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        if self._connected:
            self._task = asyncio.ensure_future(self._connected(self))

    def join(self, other: "_Side") -> None:
        self._other = other
        while self._due:
            self._due -= 1
            self._pass_on()

    def data_received(self, data: bytes) -> None:
        if self._count is not None:
            self._count.value += len(data)
        self._later(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._later(b"")

    def _later(self, data: bytes) -> None:
        self._said.append(data)
        asyncio.get_running_loop().call_later(self._delay_s, self._pass_on)

    def _pass_on(self) -> None:
        if self._other is None:
            self._due += 1  # the other end is not there yet
            return
        data = self._said.popleft()  # the oldest bytes first, even if timers fire out of order
        if data:
            self._other._transport.write(data)
        else:
            self._other._transport.close()
