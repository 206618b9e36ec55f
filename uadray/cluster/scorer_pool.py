"""The scoring actors of a stream: what each is at, and which gets the next part."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.experimental import get_local_object_locations

AT_ONCE = 2
"""Parts that an actor has: one that it scores, and one that travels to it meanwhile. More would only fill memory."""


@dataclass
class _Actor:
    """An actor, once it has started.

    Attributes:
        handle: Ray's.
        node_id: where it was when it started.
        n_parts: parts that it has.
        idle_since: when it had none left (monotonic).
    """

    handle: Any
    node_id: str = ""
    n_parts: int = 0
    idle_since: float = 0.0


@dataclass
class ScorerPool:
    """Scoring actors, all alike. An actor that dies is started again by Ray, and gets again what it had.

    Attributes:
        starting: Ray's references of actors that have not started yet: they answer with their node's id.
        scoring: Ray's references of rows that are being scored.
    """

    starting: dict[Any, _Actor]
    scoring: dict[Any, _Actor] = field(default_factory=dict)
    _ready: list[_Actor] = field(default_factory=list)
    _idle_s: float = 0.0

    def started(self, references: Iterable[Any]) -> None:
        """Note that actors have started."""
        for reference in references:
            actor = self.starting.pop(reference)
            actor.node_id = ray.get(reference)
            actor.idle_since = time.monotonic()
            self._ready.append(actor)

    def has_room(self) -> bool:
        """Whether an actor would take a part now."""
        return any(actor.n_parts < AT_ONCE for actor in self._ready)

    def score(self, part: Any) -> None:
        """Give a part to an actor: one that has none, else one of the part's node, else any.

        Args:
            part: Ray's reference of the reader's row.
        """
        holders = get_local_object_locations([part]).get(part, {}).get("node_ids") or []
        free = (actor for actor in self._ready if actor.n_parts < AT_ONCE)
        actor = min(free, key=lambda each: (each.n_parts > 0, each.node_id not in holders, each.n_parts))
        if actor.n_parts == 0:
            self._idle_s += time.monotonic() - actor.idle_since
        actor.n_parts += 1
        self.scoring[actor.handle.score.remote(part)] = actor

    def scored(self, reference: Any) -> Any:
        """The table of a reference in `scoring` that is there."""
        actor = self.scoring.pop(reference)
        actor.n_parts -= 1
        if actor.n_parts == 0:
            actor.idle_since = time.monotonic()
        return ray.get(reference)

    def at_work(self) -> tuple[int, int]:
        """How many actors score, and how many parts wait at them."""
        n_at_work = sum(actor.n_parts > 0 for actor in self._ready)
        return n_at_work, len(self.scoring) - n_at_work

    def idle_s(self) -> float:
        """Seconds without a part, of all actors that have started, since this was asked last."""
        now = time.monotonic()
        for actor in self._ready:
            if actor.n_parts == 0:
                self._idle_s += now - actor.idle_since
                actor.idle_since = now
        idle_s, self._idle_s = self._idle_s, 0.0
        return idle_s

    def close(self) -> None:
        """End the actors."""
        for actor in (*self._ready, *self.starting.values()):
            with suppress(Exception):  # it may have gone with its cluster
                ray.kill(actor.handle)


def scorer_pool(actor: type, arguments: dict[str, Any], *, n: int, **options: Any) -> ScorerPool:
    """Start the actors.

    Args:
        actor: the class; its `node_id()` says where it is, its `score(table)` scores.
        arguments: of its constructor.
        n: how many.
        options: what Ray gives each: `num_cpus`, `num_gpus`, `label_selector`.
    """
    remote = ray.remote(max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD", **options)(actor)
    handles = [remote.remote(**arguments) for _ in range(n)]
    return ScorerPool({handle.node_id.remote(): _Actor(handle) for handle in handles})
