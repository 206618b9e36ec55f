"""What is said while nothing comes, and when waiting ends. The head of the cluster is a real socket."""

import socket
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from uadray.cluster import waiting
from uadray.cluster.nodes import Nodes
from uadray.cluster.waiting import Waiting
from uadray.cluster.watch import Look, Open
from uadray.errors import ClusterLostError, WorkError

NAMES = [f"s{i}" for i in range(9)]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """What a driver sees: open work, lines that were said, and time."""

    def __init__(self, clock: Clock, head: str, nodes: Nodes, timeout_s: float = 900) -> None:
        self.clock, self.said, self.open = clock, [""], []
        self.waiting = Waiting(
            NAMES, {0, 3}, watch=self, nodes=nodes, timeout_s=timeout_s, say=self.said.append, head=head
        )

    open: list[Open]

    def look(self) -> Look:
        return Look(self.open, {})

    def idle(self, seconds: float) -> bool:
        self.clock.now += seconds
        return self.waiting.idle()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("uadray.cluster.waiting.time.monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray says of the cluster's nodes."""
    nodes: list[dict[str, Any]] = []
    monkeypatch.setattr("uadray.cluster.nodes.ray.nodes", lambda: nodes)
    return nodes


def _node(name: str, *, alive: bool = True) -> dict[str, Any]:
    address = f"10.0.0.{ord(name) - 97}"
    return {"NodeID": name, "Alive": alive, "NodeManagerAddress": address, "Resources": {"CPU": 2}}


@pytest.fixture
def head() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def _address(head: socket.socket) -> str:
    host, port = head.getsockname()
    return f"{host}:{port}"


def _open(slide: int, began: float, moved: float, node: str = "a") -> Open:
    return Open("read", slide, node, f"10.0.0.{ord(node) - 96}", began, moved)


def test_what_is_waited_for_is_said_after_ten_seconds(clock: Clock, head: socket.socket) -> None:
    desk = Desk(clock, _address(head), Nodes())
    assert not desk.idle(5)
    assert desk.said[-1] == ""
    desk.open = [_open(i, began=20.0 - i, moved=1.0) for i in range(6)]
    desk.idle(6)
    assert desk.said[-1] == (
        "waiting for s0 (read on 10.0.0.1 for 20 s), s1 (read on 10.0.0.1 for 19 s), s2 (read on 10.0.0.1 for 18 s), "
        "s3 (read on 10.0.0.1 for 17 s) and 2 more"
    )
    desk.waiting.row(4, 7, 30)
    assert desk.said[-1] == "7 of 30 parts of s4"
    desk.waiting.row(4, 30, 30)
    assert desk.said[-1] == ""
    desk.open = []
    desk.idle(11)
    assert desk.said[-1].startswith("waiting for s1, s2, s4, s5 and 3 more, which nobody has been at for 11 s: ")


def test_who_moves_is_waited_for_and_who_stands_still_is_not(clock: Clock, head: socket.socket) -> None:
    """A reader that copies a large slide for an hour is no reason to end; one that stands still for the time-out is."""
    desk = Desk(clock, _address(head), Nodes(), timeout_s=900)
    for minute in range(60):
        desk.open = [_open(0, began=60.0 * minute, moved=10.0), _open(1, began=60.0 * minute, moved=60.0 * minute)]
        desk.idle(60)
    desk.open = [_open(0, began=4600.0, moved=1000.0)]
    with pytest.raises(WorkError, match=r"nothing has moved for 1000 s; waiting for s0 \(read on 10\.0\.0\.1 for 46"):
        desk.idle(1)


def test_a_lost_head_ends_the_job_within_a_minute(clock: Clock, head: socket.socket) -> None:
    desk = Desk(clock, _address(head), Nodes())
    for _ in range(100):
        desk.idle(3)
    head.close()
    for _ in range(30):
        desk.idle(1)
    desk.clock.now += 5
    with pytest.raises(ClusterLostError, match=r"Ray cluster at 127\.0\.0\.1:\d+ has not answered for 3\d s"):
        desk.waiting.idle()
    assert desk.said[-1].startswith("waiting for the head of the Ray cluster at 127.0.0.1:")


def test_a_head_that_comes_back_is_forgiven(clock: Clock, head: socket.socket) -> None:
    desk = Desk(clock, _address(head), Nodes())
    desk.idle(4)
    address = head.getsockname()
    head.close()
    for _ in range(8):
        desk.idle(3)
    with socket.create_server(address):
        for _ in range(30):
            desk.idle(3)


@pytest.mark.parametrize("others", [True, False])
def test_a_node_whose_work_stands_still_is_looked_at(
    clock: Clock, head: socket.socket, found: list[dict[str, Any]], others: bool
) -> None:
    """It is left out if it cannot be used, unless it is the last one: then it is waited for."""
    found += [_node(name) for name in "ab"[: 1 + others]]
    asked: list[Collection[str]] = []

    def examine(node_ids: Collection[str], _: float) -> dict[str, list[str]]:
        asked.append(node_ids)
        return {node_id: ["no answer within 30 s"] for node_id in node_ids}

    nodes = Nodes(examine)
    desk = Desk(clock, _address(head), nodes)
    desk.open = [_open(0, began=30.0, moved=30.0)]
    assert not desk.idle(30)
    assert asked == []
    desk.open = [_open(0, began=61.0, moved=61.0)]
    assert not desk.idle(31)
    for thread in threading.enumerate():
        if thread.name == "uadray-nodes":
            thread.join(5)
    assert list(map(list, asked)) == [["a"]]
    assert desk.idle(1) == others
    assert nodes.left_out.keys() == ({"a"} if others else set())


def test_what_a_lost_node_had_is_not_waited_for_for_ever(
    clock: Clock, head: socket.socket, found: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """Work that stands still is begun anew, once for each loss; work that moves is left to itself."""
    found += [_node("a"), _node("b"), _node("c", alive=False)]
    desk = Desk(clock, _address(head), Nodes())
    desk.open = [_open(0, began=30.0, moved=30.0)]
    assert not desk.idle(30)  # c was lost before
    found[1]["Alive"] = False
    desk.open = [_open(0, began=40.0, moved=3.0), _open(1, began=40.0, moved=40.0)]
    assert not desk.idle(10)
    desk.open = [_open(0, began=60.0, moved=23.0)]
    assert desk.idle(20)
    assert "a node was lost, and nothing has moved for 23 s: open slides are begun anew" in caplog.text
    again = Desk(clock, _address(head), Nodes())
    again.open = [_open(0, began=30.0, moved=30.0)]
    assert not again.idle(30)


def test_answers_takes_two_seconds_at_the_most() -> None:
    began = time.perf_counter()
    assert not waiting.answers("127.0.0.1:1")
    assert not waiting.answers("nonsense")
    assert time.perf_counter() - began < waiting.HEAD_TIMEOUT_S
