"""The watch as a Ray actor on the driver's node: readers and scorers tell it what they do, the driver asks it.

A worker that cannot reach the actor works on without being watched: unwatched is better than not at all.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray

from uadray.cluster.nodes import living_nodes, on_this_node
from uadray.cluster.watch import PULSE_S, Look, Task, Watch

MOVING_CPU_S, MOVING_BYTES = 0.1, 2**20
"""A process moves if it has used so much CPU time or written so many bytes between two pulses. One that only waits for
a server uses a fiftieth of either."""

ANSWER_S = 30.0
"""How long a worker waits for the actor, which starts at the same time: on a busy machine that takes ten seconds."""

LOOK_EVERY_S = 0.5
"""The driver asks the actor no more often, however many rows come."""


class WatchActor(Watch):
    """A `Watch` that asks Ray which nodes are alive."""

    def __init__(self) -> None:
        super().__init__(_living_ids)


def _living_ids() -> set[str]:
    return {node["NodeID"] for node in living_nodes()}


class DriversWatch:
    """The driver's side; one for each stream.

    Attributes:
        name: of the actor, for `watched`.
        seen: what the actor last said.
    """

    def __init__(self) -> None:
        self.name = f"uadray-watch-{os.urandom(6).hex()}"
        actor = ray.remote(num_cpus=0, max_restarts=-1)(WatchActor)
        self._actor: Any = actor.options(name=self.name, scheduling_strategy=on_this_node()).remote()
        self._asked: Any = None
        self.seen, self._seen_at = Look([], {}), 0.0

    def look(self, timeout_s: float = 0.0) -> Look:
        """What the actor last said. It is asked anew, and its answer is waited for no longer than `timeout_s`.

        Where that is waited for, what it was asked before does not count: the answer may be older than the last crash.
        """
        if self._asked is None or timeout_s:
            if not timeout_s and time.monotonic() - self._seen_at < LOOK_EVERY_S:
                return self.seen
            self._asked = self._actor.look.remote()
        with suppress(ray.exceptions.RayError):
            if ray.wait([self._asked], timeout=timeout_s)[0]:
                answer, self._asked = self._asked, None
                self.seen, self._seen_at = ray.get(answer), time.monotonic()
        return self.seen

    def close(self) -> None:
        """End the actor."""
        with suppress(Exception):  # it may have gone with its cluster
            ray.kill(self._actor)


@contextmanager
def watched(name: str | None, what: str, slide: int, part: int = 0) -> Iterator[str | None]:
    """Tell the actor `name` when work on a slide begins, moves and ends.

    A reader waits for the actor's answer. A scorer only does when its actor was started again: whatever killed a scorer
    is given to its successor.

    Yields:
        Why the work must not be done; None where it may.
    """
    if name is None:
        yield None
        return
    task: Task = (what, slide, part)
    refusal: str | None = _begun(name, "begin", task, default=None)
    with _pulsing(name, [task] if refusal is None else []):
        yield refusal


@contextmanager
def watched_together(name: str | None, what: str, works: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """Tell the actor `name` in one message when work on several small slides or parts begins, and when it ends.

    Args:
        name: of the actor.
        what: is done.
        works: slide and part of each.

    Yields:
        Whether it may be done so; otherwise each is to be `watched` by itself.
    """
    if name is None:
        yield True
        return
    tasks: list[Task] = [(what, slide, part) for slide, part in works]
    is_together: bool = _begun(name, "begin_together", tasks, default=True)
    with _pulsing(name, tasks if is_together else []):
        yield is_together


def _begun(name: str, method: str, work: Any, *, default: Any) -> Any:
    """Say that work begins; returns the actor's answer, or `default` where it is not waited for."""
    context = ray.get_runtime_context()
    with suppress(ray.exceptions.RayError, ValueError):
        call = getattr(_actor(name), method)
        answer = call.remote(work, context.get_node_id(), ray.util.get_node_ip_address())
        what = work[0] if method == "begin" else work[0][0]
        if what == "read" or context.was_current_actor_reconstructed:
            return ray.get(answer, timeout=ANSWER_S)
    return default


@contextmanager
def _pulsing(name: str, tasks: list[Task]) -> Iterator[None]:
    """Say while the block runs that work on `tasks` moves, and at its end that it has ended."""
    ended = threading.Event()
    if tasks:
        threading.Thread(target=_pulse, args=(name, tasks, ended), name="uadray-pulse", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if tasks:
            with suppress(ray.exceptions.RayError, ValueError):
                _actor(name).end.remote(*tasks)


@lru_cache(maxsize=1)
def _actor(name: str) -> Any:
    return ray.get_actor(name)


def _pulse(name: str, tasks: list[Task], ended: threading.Event) -> None:
    """Say every `PULSE_S` that the work moves, if it does."""
    before = _work_done()
    while not ended.wait(PULSE_S):
        now = _work_done()
        if now[0] - before[0] > MOVING_CPU_S or now[1] - before[1] > MOVING_BYTES:
            with suppress(ray.exceptions.RayError, ValueError):
                _actor(name).move.remote(*tasks)
        before = now


def _work_done() -> tuple[float, int]:
    """CPU seconds of this process, and bytes that it has written."""
    written = 0
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/io").read_text().splitlines()
        written = next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))
    return time.process_time(), written
