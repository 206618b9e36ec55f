"""Which slides are being worked on, where and since when, and which have killed the process that worked on them.

Ray runs a task again, without limit, whose process died. So each reader and scorer says what it begins and ends to one
actor on the driver's node, and whoever begins what has killed two processes is told so and leaves it. The driver asks
the same actor what it is waiting for.

    begin(slide) --> open --> end(slide) --> forgotten
                      | its process dies, Ray runs it again
                      v
    begin(slide): it is still open, so that was a kill; after MAX_KILLS of them on living nodes the slide is crashed

A process that dies with its node is no kill: nodes that are gone are not counted.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray

from uadray.cluster.tasks import on_this_node

MAX_KILLS = 2
"""A slide that has killed so many processes is not given to another."""

PULSE_S = 10.0
"""Who works says so often whether it is moving."""

MOVING_CPU_S, MOVING_BYTES = 0.1, 2**20
"""A process moves that has used so much of a processor or written so much to a disk between two pulses. Waiting for a
server takes a fiftieth of either."""

ANSWER_S = 10.0
"""For so long a worker waits for the actor; then it works on without being watched."""

Task = tuple[str, int, int]
"""What is done (`read`, `score`), the slide's index, and the part's (0 for a reader)."""


@dataclass
class Open:
    """Work that was begun and has not ended.

    Attributes:
        what: `read` or `score`.
        slide: index into the rows of the stream.
        node_id: Ray's name of the node.
        address: of the node.
        began: time (monotonic, of the actor).
        moved: when it was last seen to move.
    """

    what: str
    slide: int
    node_id: str
    address: str
    began: float
    moved: float


@dataclass(frozen=True)
class Look:
    """What the driver sees.

    Attributes:
        open: work that is being done; times are seconds ago.
        crashed: slide -> why it is not tried again.
    """

    open: list[Open]
    crashed: dict[int, str]


@dataclass
class Watch:
    """The actor's state; plain Python.

    Attributes:
        alive: tells the ids of the nodes that are alive.
    """

    alive: Callable[[], set[str]]
    _open: dict[Task, Open] = field(default_factory=dict)
    _kills: dict[Task, list[Open]] = field(default_factory=dict)
    _crashed: dict[int, str] = field(default_factory=dict)

    def begin(self, task: Task, node_id: str, address: str) -> str | None:
        """Note that work begins. Returns why it must not: it has killed `MAX_KILLS` processes before."""
        before = self._open.pop(task, None)
        if before is not None:
            self._kills.setdefault(task, []).append(before)
        kills = self._kills.get(task, [])
        if len(kills) >= MAX_KILLS:
            living = self.alive()
            kills = self._kills[task] = [kill for kill in kills if kill.node_id in living]
        if len(kills) >= MAX_KILLS:
            verb = {"read": "reads", "score": "scores"}[task[0]]
            where = " and ".join(dict.fromkeys(kill.address for kill in kills))
            self._crashed[task[1]] = f"the process that {verb} it was killed {len(kills)} times, on {where}"
            return self._crashed[task[1]]
        now = time.monotonic()
        self._open[task] = Open(task[0], task[1], node_id, address, began=now, moved=now)
        return None

    def move(self, task: Task) -> None:
        """Note that the work moves."""
        if task in self._open:
            self._open[task].moved = time.monotonic()

    def end(self, task: Task) -> None:
        """Note that the work has ended, however it did."""
        self._open.pop(task, None)

    def look(self) -> Look:
        """What is open, and what has crashed."""
        now = time.monotonic()
        found = [Open(o.what, o.slide, o.node_id, o.address, now - o.began, now - o.moved) for o in self._open.values()]
        return Look(found, dict(self._crashed))


class WatchActor(Watch):
    """The same, as an actor."""

    def __init__(self) -> None:
        super().__init__(alive_nodes)


def alive_nodes() -> set[str]:
    """Ids of the nodes that Ray takes for alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class DriversWatch:
    """The driver's side: one for each stream."""

    def __init__(self) -> None:
        self.name = f"uadray-watch-{os.urandom(6).hex()}"
        actor = ray.remote(num_cpus=0, max_restarts=-1)(WatchActor)
        self._actor: Any = actor.options(name=self.name, scheduling_strategy=on_this_node()).remote()
        self._asked: Any = None
        self.seen = Look([], {})

    def look(self, timeout_s: float = 0.0) -> Look:
        """What the actor last said; asks it anew. Waits for its answer no longer than `timeout_s`."""
        if self._asked is None:
            self._asked = self._actor.look.remote()
        with suppress(ray.exceptions.RayError):
            if ray.wait([self._asked], timeout=timeout_s)[0]:
                asked, self._asked = self._asked, None
                self.seen = ray.get(asked)
        return self.seen

    def close(self) -> None:
        """End the actor."""
        with suppress(Exception):  # it may have gone with its cluster
            ray.kill(self._actor)


@contextmanager
def watched(name: str | None, what: str, slide: int, part: int = 0) -> Iterator[str | None]:
    """Do work on a slide under the eye of the actor `name`; yields why it must not be done, None where it may.

    A scorer that was never restarted does not wait for the answer: what killed a scorer is given to its successor.
    """
    if name is None:
        yield None
        return
    task: Task = (what, slide, part)
    context = ray.get_runtime_context()
    refusal = None
    with suppress(ray.exceptions.RayError, ValueError):  # unwatched is better than not at all
        asked = _actor(name).begin.remote(task, context.get_node_id(), ray.util.get_node_ip_address())
        if what == "read" or context.was_current_actor_reconstructed:
            refusal = ray.get(asked, timeout=ANSWER_S)
    ended = threading.Event()
    if refusal is None:
        threading.Thread(target=_pulse, args=(name, task, ended), name="uadray-pulse", daemon=True).start()
    try:
        yield refusal
    finally:
        ended.set()
        if refusal is None:
            with suppress(ray.exceptions.RayError, ValueError):
                _actor(name).end.remote(task)


@lru_cache(maxsize=1)
def _actor(name: str) -> Any:
    return ray.get_actor(name)


def _pulse(name: str, task: Task, ended: threading.Event) -> None:
    """Say every `PULSE_S` that the work moves, if it does."""
    before = _work_done()
    while not ended.wait(PULSE_S):
        now = _work_done()
        if now[0] - before[0] > MOVING_CPU_S or now[1] - before[1] > MOVING_BYTES:
            with suppress(ray.exceptions.RayError, ValueError):
                _actor(name).move.remote(task)
        before = now


def _work_done() -> tuple[float, int]:
    """Seconds of processor time of this process, and bytes that it has written."""
    written = 0
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/io").read_text().splitlines()
        written = next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))
    return time.process_time(), written
