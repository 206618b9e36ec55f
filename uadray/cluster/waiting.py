"""What the driver does while no row comes: it says what is waited for, and ends a job in which nothing moves.

    row --> quiet --10 s--> say which slides are open, on which nodes, and since when
              |
              |-- a node was lost, and nothing moves for 20 s   start again: Ray may wait for ever for what it had
              |-- a node's work stands still for 40 s       examine that node; what cannot be used is left out
              |-- nothing moves for the job's time-out      end: WorkError
              |-- the head does not answer                  say so
              |       `-- for 30 s                          end: ClusterLostError
              `-- row                                       from the start

While the head does not answer, nothing else is asked of the cluster: it would hang.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from typing import Protocol

from uadray.cluster.nodes import Nodes, dead_nodes
from uadray.cluster.watch import Look
from uadray.errors import ClusterLostError, WorkError

log = logging.getLogger(__name__)

QUIET_S = 10.0
"""Without a row for so long, the driver says what is waited for."""

LOST_S = 20.0
"""After a node was lost, nothing moves for so long: then what is open is begun anew. Of blocks that the node had, and
that Ray makes anew, some wait for a reader that waits for room, which the blocks would have to make."""

STANDING_S = 40.0
"""A node whose work has stood still for so long is examined; the same node not more often."""

HEAD_GONE_S = 30.0
"""A head that has not answered for so long is lost: a restart of it takes less."""

HEAD_EVERY_S, HEAD_TIMEOUT_S = 3.0, 2.0
"""How often the head is tried, and how long each time."""

NAMED = 4
"""Slides that are named in a line."""

Say = Callable[[str], None]


class Looks(Protocol):
    """Tells what is open: `watch_actor.DriversWatch`."""

    def look(self) -> Look:
        """What is open, and what has crashed."""
        ...


class Waiting:
    """Watches over one stream.

    Args:
        names: of the slides, as they may be shown, by index.
        done: indices of the slides that are complete; the caller adds to it.
        watch: knows what is open.
        nodes: that are used.
        timeout_s: the stream ends when nothing has moved for so long.
        say: is told what is waited for; the empty text where nothing is.
        head: `host:port` of the cluster's head.
    """

    def __init__(
        self, names: Sequence[str], done: Set[int], *, watch: Looks, nodes: Nodes, timeout_s: float, say: Say, head: str
    ) -> None:
        self._names, self._done, self._watch, self._nodes = names, done, watch, nodes
        self._timeout_s, self._say, self._head = timeout_s, say, head
        self._row_at = self._head_answered_at = self._head_tried_at = time.monotonic()
        self._examination: threading.Thread | None = None
        self._examined_at: dict[str, float] = {}
        self._examination_results: list[WorkError | bool] = []
        self._dead_before = dead_nodes()

    def row(self, slide: int, parts: int, of: int) -> None:
        """Note that a row has come: `parts` of `of` parts of this slide are there."""
        self._row_at = self._head_answered_at = time.monotonic()
        self._say(f"{parts} of {of} parts of {self._names[slide]}" if parts < of else "")

    def idle(self) -> bool:
        """Note that no row came for a second.

        Returns:
            Whether the stream is to start again: without a node that was left out, or since one was lost.

        Raises:
            ClusterLostError: the head is gone.
            WorkError: nothing moves, or no node is left.
        """
        now = time.monotonic()
        if self._head_is_away(now):
            return False
        look = self._watch.look()
        quiet_s = now - self._row_at
        still_s = min([quiet_s, *(work.moved for work in look.open)])
        if still_s > self._timeout_s:
            raise WorkError(f"nothing has moved for {still_s:.0f} s; {self.awaited(look, quiet_s)}")
        if quiet_s > QUIET_S:
            self._say(self.awaited(look, quiet_s))
        if still_s > LOST_S and dead_nodes() - self._dead_before:
            log.warning("a node was lost, and nothing has moved for %.0f s: open slides are begun anew", still_s)
            return True
        if self._examination_results:
            result = self._examination_results.pop()
            if isinstance(result, WorkError):
                raise result
            return result
        self._examine_what_stands_still(look, now)
        return False

    def awaited(self, look: Look, quiet_s: float) -> str:
        """What is waited for, in a line."""
        if not look.open:
            missing = [name for i, name in enumerate(self._names) if i not in self._done]
            why = "processes start, CPUs are taken, or a node with parts of them does not answer"
            return f"waiting for {_listed(missing)}, which nobody has been at for {quiet_s:.0f} s: {why}"
        longest = sorted(look.open, key=lambda work: -work.began)
        lines = [f"{self._names[w.slide]} ({w.what} on {w.address} for {w.began:.0f} s)" for w in longest]
        return f"waiting for {_listed(list(dict.fromkeys(lines)))}"

    def _head_is_away(self, now: float) -> bool:
        if now - self._head_tried_at < HEAD_EVERY_S:
            return self._head_answered_at < self._head_tried_at
        self._head_tried_at = now
        if answers(self._head):
            self._head_answered_at = time.monotonic()
            return False
        away_s = now - self._head_answered_at
        if away_s > HEAD_GONE_S:
            raise ClusterLostError(f"the head of the Ray cluster at {self._head} has not answered for {away_s:.0f} s")
        self._say(f"waiting for the head of the Ray cluster at {self._head}, which does not answer")
        return True

    def _examine_what_stands_still(self, look: Look, now: float) -> None:
        """Examine, in a thread beside the stream, the nodes whose work stands still."""
        if not self._nodes.can_be_examined or (self._examination is not None and self._examination.is_alive()):
            return
        standing = {w.node_id for w in look.open if w.moved > STANDING_S and w.node_id not in self._nodes.left_out}
        if not look.open and now - self._row_at > STANDING_S:
            standing = set(self._nodes.usable())
        due = {node_id for node_id in standing if now - self._examined_at.get(node_id, -1e9) > STANDING_S}
        if due:
            self._examined_at |= dict.fromkeys(due, now)
            self._examination = threading.Thread(target=self._examine, args=(due,), name="uadray-nodes", daemon=True)
            self._examination.start()

    def _examine(self, node_ids: set[str]) -> None:
        try:
            if self._nodes.check(node_ids, but_not_the_last=True):
                self._examination_results.append(True)
        except WorkError as error:
            self._examination_results.append(error)


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are.

    >>> _listed(["a", "b"]), _listed([*"abcdef"])
    ('a, b', 'a, b, c, d and 2 more')
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def answers(address: str) -> bool:
    """Whether somebody listens at `host:port`."""
    host, _, port = address.rpartition(":")
    with suppress(OSError, ValueError):
        socket.create_connection((host, int(port)), timeout=HEAD_TIMEOUT_S).close()
        return True
    return False
