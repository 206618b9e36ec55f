"""The load generator, against a small server: every request is counted, whatever becomes of it."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

import pytest

from uadray.bench.http_load import BROKEN, LATE, Load, Outcome, Request, counts, facts, quantile_s, send

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FULL = b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfull\r\n0\r\n\r\n"
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok"


@contextmanager
def server(*answers: bytes, wait_s: float = 0.0) -> Iterator[int]:
    """Gives each request the next answer, again from the first after the last; reads no body before it answers."""
    numbers = count()

    class Answering(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            number = next(numbers)
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            time.sleep(wait_s)
            with suppress(OSError):
                self.wfile.write(answers[number % len(answers)])
                self.request.shutdown(socket.SHUT_WR)
                self.rfile.read()  # until the client has gone: unread bytes would reset the connection

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Answering) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield listening.server_address[1]
        listening.shutdown()
        thread.join()


def test_every_answer_is_counted_by_its_status() -> None:
    with server(OK, FULL, SHORT) as port:
        outcomes, unsent = send(port, Request("/", b"x" * 300_000), Load(seconds=0.6, rate_per_s=10, clients=3))
    assert (counts(outcomes), unsent) == ({"200": 2, "429": 2, "broken": 2}, 0)
    full = [outcome for outcome in outcomes if outcome.status == 429]
    assert {(outcome.retry_after, outcome.body) for outcome in full} == {("1", "full")}


def test_a_rate_does_not_wait_for_answers() -> None:
    with server(OK, wait_s=0.3) as port:
        outcomes, unsent = send(port, Request("/"), Load(seconds=0.5, rate_per_s=20, clients=4))
    assert len(outcomes) + unsent == 10
    assert unsent > 0
    assert [outcome.at_s for outcome in outcomes[:4]] == pytest.approx([0, 0.05, 0.1, 0.15], abs=0.04)


def test_so_many_clients_wait_for_theirs() -> None:
    with server(OK, wait_s=0.1) as port:
        outcomes, _ = send(port, Request("/"), Load(seconds=0.25, clients=2))
    assert len(outcomes) == 6
    assert all(outcome.seconds >= 0.1 for outcome in outcomes)


def test_no_answer_is_an_outcome_too() -> None:
    with server(OK, wait_s=0.4) as port:
        late, _ = send(port, Request("/"), Load(seconds=0.1, rate_per_s=10, timeout_s=0.1))
    broken, _ = send(port, Request("/"), Load(seconds=0.1, rate_per_s=10))  # nobody listens there by now
    assert ([o.status for o in late], [o.status for o in broken]) == ([LATE], [BROKEN])


def test_quantiles_are_of_what_was_accepted() -> None:
    outcomes = [Outcome(0, i / 100, 200) for i in range(1, 101)] + [Outcome(0, 50.0, 429)]
    assert (quantile_s(outcomes, 0.5), quantile_s(outcomes, 0.99)) == (0.5, 0.99)
    assert facts(outcomes[100:]) == {"requests": 1, "statuses": {"429": 1}, "p50_s": None, "p99_s": None}
