"""Requests over HTTP to a port of this machine, sent at a rate that does not wait for answers, or by so many clients.

Every request is counted, with what came of it. Each has a connection of its own, so that one that breaks breaks no
other. Plain asyncio: the generator takes little of the processors that the server needs.
"""

import asyncio
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

BROKEN = 0
"""The status of a request whose connection was refused, or broke before an answer."""

LATE = -1
"""The status of a request that got no answer in time."""


@dataclass(frozen=True)
class Request:
    """What is sent.

    Attributes:
        path: with the query.
        body: of a POST; empty for a GET.
        headers: beside Host, Content-Length and Connection.
    """

    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, port: int) -> tuple[bytes, bytes]:
        """Head and body as they are sent."""
        method = "POST" if self.body else "GET"
        headers = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(self.body)), "Connection": "close"}
        lines = [f"{method} {self.path} HTTP/1.1", *(f"{k}: {v}" for k, v in (headers | dict(self.headers)).items())]
        return "\r\n".join([*lines, "", ""]).encode(), self.body


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        at_s: when it was sent, in seconds since the beginning.
        seconds: from sending to the end of the answer.
        status: of the answer; `BROKEN`, `LATE`.
        retry_after: the header, empty without.
        body: of the answer, its first bytes where it is an error; of a 200 nothing is kept.
    """

    at_s: float
    seconds: float
    status: int
    retry_after: str = ""
    body: str = ""


@dataclass(frozen=True)
class Load:
    """What a load is.

    Attributes:
        seconds: for which requests are sent.
        rate_per_s: sent at this rate whatever is answered; None: each client sends when it has its answer.
        clients: at most so many requests are under way; with a rate, one that would be more is not sent (`unsent`).
        timeout_s: for an answer.
    """

    seconds: float
    rate_per_s: float | None = None
    clients: int = 4
    timeout_s: float = 90.0


def send(port: int, request: Request, load: Load) -> tuple[list[Outcome], int]:
    """The outcomes of a load, by the time at which they were sent, and how many requests were not sent."""
    return asyncio.run(_send(port, request, load))


def send_apart(port: int, request: Request, load: Load) -> tuple[list[Outcome], int]:
    """As `send`, in a process of its own, which shares no interpreter with what else this process does."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(send, port, request, load).result()


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of each status; `broken` and `late` are those without an answer."""
    names = {BROKEN: "broken", LATE: "late"}
    counted = Counter(names.get(outcome.status, str(outcome.status)) for outcome in outcomes)
    return dict(sorted(counted.items()))


def quantile_s(outcomes: Sequence[Outcome], share: float, *, status: int = 200) -> float | None:
    """The seconds within which this share of the answers with a status came; None without any."""
    seconds = sorted(outcome.seconds for outcome in outcomes if outcome.status == status)
    return seconds[min(len(seconds) - 1, math.ceil(share * len(seconds)) - 1)] if seconds else None


def facts(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts, and the seconds of what was accepted."""
    accepted = [quantile_s(outcomes, share) for share in (0.5, 0.99)]
    return {
        "requests": len(outcomes), "statuses": counts(outcomes),
        **{name: None if s is None else round(s, 4) for name, s in zip(("p50_s", "p99_s"), accepted, strict=True)},
    }  # fmt: skip


async def _send(port: int, request: Request, load: Load) -> tuple[list[Outcome], int]:
    if load.rate_per_s is None:
        return await _by_clients(port, request, load), 0
    return await _at_rate(port, request, load, load.rate_per_s)


async def _by_clients(port: int, request: Request, load: Load) -> list[Outcome]:
    began, outcomes = time.perf_counter(), list[Outcome]()

    async def client() -> None:
        while time.perf_counter() - began < load.seconds:
            outcome = await _asked(port, request, began, load.timeout_s)
            outcomes.append(outcome)
            if outcome.status != 200:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(client() for _ in range(load.clients)))
    return sorted(outcomes, key=lambda outcome: outcome.at_s)


async def _at_rate(port: int, request: Request, load: Load, rate_per_s: float) -> tuple[list[Outcome], int]:
    began, outcomes, unsent = time.perf_counter(), list[Outcome](), 0
    under_way: set[asyncio.Task[None]] = set()

    async def one() -> None:
        outcomes.append(await _asked(port, request, began, load.timeout_s))

    for number in range(max(1, round(load.seconds * rate_per_s))):
        await asyncio.sleep(max(0.0, began + number / rate_per_s - time.perf_counter()))
        if len(under_way) >= load.clients:
            unsent += 1
            continue
        task = asyncio.create_task(one())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    return sorted(outcomes, key=lambda outcome: outcome.at_s), unsent


async def _asked(port: int, request: Request, began: float, timeout_s: float) -> Outcome:
    at = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            status, retry_after, body = await _exchange(port, *request.encoded(port))
    except TimeoutError:
        status, retry_after, body = LATE, "", ""
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        status, retry_after, body = BROKEN, "", repr(error)
    return Outcome(at - began, time.perf_counter() - at, status, retry_after, body)


async def _exchange(port: int, head: bytes, body: bytes) -> tuple[int, str, str]:
    """Status, Retry-After and what an error says. An answer may come before all of the body has been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    sending = asyncio.create_task(_all_sent(writer, head, body))
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        content = await _content(reader, headers)
        return status, headers.get("retry-after", ""), "" if status == 200 else content[:300].decode(errors="replace")
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await sending
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _content(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The whole content: one that ends too early is an error."""
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read()
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


async def _all_sent(writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
    writer.write(head)
    for start in range(0, len(body), 2**16):
        writer.write(body[start : start + 2**16])
        await writer.drain()
