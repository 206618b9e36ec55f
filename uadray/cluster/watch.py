"""Which slides are being worked on, on which node and since when; and which have killed the processes that did.

Ray runs a task again, without limit, when its process dies. So each reader and scorer says what it begins and ends, and
one that begins what has killed two processes before is refused. For each task (a slide that is read, a part that is
scored):

                begin            end
    not begun ---------> open ---------> not begun
                         |  ^
        its process dies |  | fewer than MAX_KILLS kills on nodes that are alive
                         v  |
               begin, while it is open: one kill more
                         |
                         | MAX_KILLS: begin is refused
                         v
                      crashed: the slide fails, and no other process gets it

Small tasks are begun together, in one message. If their process dies, each of them has a kill, and they are begun one
by one from then on: the one that is to blame has its second kill alone.

A process that works says `move` every PULSE_S. By the time of the last the driver sees work that stands still.
A process that dies because its node died is no kill: kills on nodes that are gone are dropped.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MAX_KILLS = 2
"""A slide that has killed so many processes is not given to another."""

PULSE_S = 10.0
"""How often a process that works says whether it moves."""

Task = tuple[str, int, int]
"""What is done (`read`, `score`), the slide's index, and the part's (0 for a reader)."""


@dataclass
class Open:
    """Work that was begun and has not ended.

    Attributes:
        what: `read` or `score`.
        slide: index into the rows of the stream.
        node_id: Ray's id of the node.
        address: of the node.
        began: time (monotonic, of the actor) or, in a `Look`, seconds ago.
        moved: when it was last seen to move, likewise.
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
        retried: how often work was begun again whose process had died, or its node.
    """

    open: list[Open]
    crashed: dict[int, str]
    retried: int = 0


@dataclass
class Watch:
    """The state of one stream's work, as the diagram has it.

    Attributes:
        alive: tells the ids of the nodes that are alive.
    """

    alive: Callable[[], set[str]]
    _open: dict[Task, Open] = field(default_factory=dict)
    _kills: dict[Task, list[Open]] = field(default_factory=dict)
    _crashed: dict[int, str] = field(default_factory=dict)
    _dead: set[Task] = field(default_factory=set)
    _retried: int = 0

    def begin(self, task: Task, node_id: str, address: str) -> str | None:
        """Note that work begins, or return why it must not: it has killed `MAX_KILLS` processes."""
        self._note_death(task)
        is_again = task in self._dead
        self._dead.discard(task)
        if len(self._living_kills(task)) >= MAX_KILLS:
            return self._refuse(task)
        self._retried += is_again
        now = time.monotonic()
        self._open[task] = Open(task[0], task[1], node_id, address, began=now, moved=now)
        return None

    def begin_together(self, tasks: Sequence[Task], node_id: str, address: str) -> bool:
        """Note that work on several begins; False where a process has died at one of them: then each is begun alone."""
        for task in tasks:
            self._note_death(task)
        if any(task in self._kills for task in tasks):
            return False
        for task in tasks:
            self.begin(task, node_id, address)
        return True

    def move(self, *tasks: Task) -> None:
        """Note that the work moves."""
        for task in tasks:
            if task in self._open:
                self._open[task].moved = time.monotonic()

    def end(self, *tasks: Task) -> None:
        """Note that the work has ended, with a result or an error."""
        for task in tasks:
            self._open.pop(task, None)

    def look(self) -> Look:
        """What is open, and what has crashed."""
        now = time.monotonic()
        seen = [Open(o.what, o.slide, o.node_id, o.address, now - o.began, now - o.moved) for o in self._open.values()]
        return Look(seen, dict(self._crashed), self._retried)

    def _note_death(self, task: Task) -> None:
        """Work that begins and is still open was begun by a process that has died."""
        killed = self._open.pop(task, None)
        if killed is not None:
            self._kills.setdefault(task, []).append(killed)
            self._dead.add(task)

    def _living_kills(self, task: Task) -> list[Open]:
        """Kills of a task on nodes that are alive; nodes are only asked for when their number matters."""
        kills = self._kills.get(task, [])
        if len(kills) >= MAX_KILLS:
            living = self.alive()
            kills = self._kills[task] = [kill for kill in kills if kill.node_id in living]
        return kills

    def _refuse(self, task: Task) -> str:
        what, slide, _ = task
        verb = {"read": "reads", "score": "scores"}[what]
        kills = self._kills[task]
        addresses = " and ".join(dict.fromkeys(kill.address for kill in kills))
        self._crashed[slide] = f"the process that {verb} it was killed {len(kills)} times, on {addresses}"
        return self._crashed[slide]
