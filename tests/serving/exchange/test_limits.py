"""What a replica holds is bounded: bytes of bodies together, pixels together, requests at a time."""

import asyncio
import http.client
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from serving_client import PATH, request, serving

from uadray.serving.exchange.limits import PixelRoom, RequestGate
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, Wanted
from uadray.tiles.images import Pixels


class Slow:
    """A scorer that waits until it is let go, and knows how often it was cancelled."""

    def __init__(self) -> None:
        self.go, self.started, self.cancelled = threading.Event(), 0, 0

    async def __call__(self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        self.started += 1
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Scores(pixels.mean((1, 2, 3)).astype(float))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bodies_together_are_bounded_and_there_is_room_again(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    slow, body = Slow(), request(encode(pixels[0])) | {"tiles": [{"id": "x" * 900, "image": encode(pixels[0])}] * 4}
    limits = {"max_body_bytes": 40_000, "max_bytes_in_flight": 40_000}
    with serving(bundles["fanogan"], parts={"score": slow}, **limits) as port:
        answers: list[Any] = []
        first = threading.Thread(target=lambda: answers.append(ask(port, PATH, body)))
        first.start()
        until(lambda: slow.started == 1)
        refused = [ask(port, PATH, body) for _ in range(2)]
        assert ask(port, "/healthz").status == 200
        slow.go.set()
        first.join()
        assert ask(port, PATH, body).status == 200
    assert [a.status for a in answers] == [200]
    for answer in refused:
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert "more than 40000 bytes are being received" in answer.body["detail"]


def test_requests_at_a_time_are_bounded(bundles: dict[str, str], pixels: Pixels, encode: Any, ask: Any) -> None:
    slow, body = Slow(), request(encode(pixels[0]))
    with serving(bundles["fanogan"], parts={"score": slow}, max_ongoing_requests=2) as port:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port, PATH, body))) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: slow.started == 2)
        refused = ask(port, PATH, body)
        slow.go.set()
        for thread in threads:
            thread.join()
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert [a.status for a in answers] == [200, 200]


def test_pixels_of_all_requests_together_are_waited_for(
    bundles: dict[str, str], pixels: Pixels, encode: Any, ask: Any
) -> None:
    slow, body = Slow(), request(*[encode(pixels[0])] * 4)
    limits = {"max_pixels_per_request": 4 * 40 * 40, "max_pixels_in_flight": 4 * 40 * 40}
    with serving(bundles["fanogan"], parts={"score": slow}, **limits) as port:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port, PATH, body))) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: slow.started == 1)
        time.sleep(0.2)
        assert slow.started == 1, "the others wait, and nothing of theirs is decoded"
        assert ask(port, "/healthz").status == 200
        slow.go.set()
        for thread in threads:
            thread.join()
    assert [a.status for a in answers] == [200] * 3


def test_work_that_takes_too_long_is_stopped(bundles: dict[str, str], pixels: Pixels, encode: Any, ask: Any) -> None:
    slow = Slow()
    with serving(bundles["fanogan"], parts={"score": slow}, request_timeout_s=0.5) as port:
        answer = ask(port, PATH, request(encode(pixels[0])))
        until(lambda: slow.cancelled == 1)
    assert (answer.status, answer.body["detail"]) == (504, "no answer within 0.5 s; send fewer tiles")


def test_a_body_that_does_not_come_is_not_waited_for(bundles: dict[str, str]) -> None:
    with serving(bundles["fanogan"], request_timeout_s=0.5) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        connection.send(b"{")
        assert connection.getresponse().status == 504
        connection.close()


def test_a_client_that_goes_stops_its_work(bundles: dict[str, str], pixels: Pixels, encode: Any, ask: Any) -> None:
    slow = Slow()
    with serving(bundles["fanogan"], parts={"score": slow}, max_ongoing_requests=1) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = b'{"tiles": [{"id": "a", "image": "%s"}]}' % encode(pixels[0]).encode()
        connection.request("POST", PATH, body)
        until(lambda: slow.started == 1)
        connection.close()
        until(lambda: slow.cancelled == 1)
        slow.go.set()
        until(lambda: bool(ask(port, PATH, body).status == 200))  # its place is free


def test_a_full_queue_of_the_stages_is_told_as_it_is(
    bundles: dict[str, str], pixels: Pixels, encode: Any, ask: Any
) -> None:
    async def full(*_: Any) -> Scores:
        raise RefusedError(429, "the stages are busy", {"Retry-After": "2"})

    with serving(bundles["fanogan"], parts={"score": full}) as port:
        answer = ask(port, PATH, request(encode(pixels[0])))
    assert (answer.status, answer.headers["retry-after"], answer.body["detail"]) == (429, "2", "the stages are busy")


def test_pixels_are_given_in_turn_and_all_come_back() -> None:
    async def run() -> tuple[list[str], int]:
        room, order = PixelRoom(10), list[str]()

        async def take(name: str, pixels: int, hold_s: float) -> None:
            async with room.holding(pixels) as held:
                order.append(name)
                await asyncio.sleep(hold_s / 2)
                held.keep(1)
                await asyncio.sleep(hold_s / 2)

        tasks = []
        for name, pixels in (("a", 8), ("large", 10), ("small", 1)):  # the small one fits, and waits its turn
            tasks.append(asyncio.create_task(take(name, pixels, 0.05)))
            await asyncio.sleep(0)
        gone = asyncio.create_task(take("gone", 10, 5))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.gather(*tasks)
        return order, room.left

    assert asyncio.run(run()) == (["a", "large", "small"], 10)


def test_a_gate_admits_so_many() -> None:
    async def run() -> None:
        gate = RequestGate(1)
        async with gate.admitted():
            with pytest.raises(RefusedError):
                async with gate.admitted():
                    raise AssertionError
        async with gate.admitted():
            pass

    asyncio.run(run())


def test_of_whoever_is_not_known_no_body_is_read(bundles: dict[str, str], ask: Any) -> None:
    """Whatever the route: the answer comes while the body is still to be sent."""
    with serving(bundles["fanogan"], token="t") as port:
        paths = [
            (method.upper(), path)
            for path, item in ask(port, "/openapi.json", Authorization="Bearer t").body["paths"].items()
            for method in item if method in ("post", "put")
        ]  # fmt: skip
        assert len(paths) >= 4
        for method, path in paths:
            for header, value in (("Content-Length", "1000"), ("Transfer-Encoding", "chunked")):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                connection.putrequest(method, path.replace("{name}", "main"))
                connection.putheader(header, value)
                connection.endheaders()
                assert connection.getresponse().status == 401, (method, path)
                connection.close()
