"""What the driver does while no row comes: it says what is waited for, and sees that it does not wait for ever.

no row for 10 s                   say which slides are open, where and since when
a node's work stands still        look at that node; what cannot be used is left out
nothing moves for the time-out    end
the head of the cluster is away   end: nothing will come any more
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from typing import Protocol

from uadray.cluster.nodes import Nodes
from uadray.cluster.watch import Look
from uadray.errors import ClusterLostError, WorkError

QUIET_S = 10.0
"""After so long without a row it is said what is waited for."""

STANDING_S = 40.0
"""A node is looked at whose work has stood still for so long."""

HEAD_GONE_S = 30.0
"""The head of a cluster is gone that was not to be reached for so long: a restart of it takes less."""

HEAD_EVERY_S, HEAD_TIMEOUT_S = 3.0, 2.0
NAMED = 4
"""Slides that are named in a line."""

Say = Callable[[str], None]


class Looks(Protocol):
    """Tells what is open: `watch.DriversWatch`."""

    def look(self) -> Look:
        """What is open, and what has crashed."""
        ...


class Waiting:
    """Watches over one stream.

    Args:
        names: of the slides, as they may be shown, by index.
        done: indices of those that have come; grows.
        watch: what is open.
        nodes: that are used.
        timeout_s: without any movement for so long the stream ends.
        say: takes what is waited for; the empty text where nothing is.
        head: `host:port` of the cluster's head.
    """

    def __init__(
        self, names: Sequence[str], done: Set[int], *, watch: Looks, nodes: Nodes, timeout_s: float, say: Say, head: str
    ) -> None:
        self._done = done
        self._names, self._watch, self._nodes, self._timeout_s, self._say = names, watch, nodes, timeout_s, say
        self._row_at = self._head_at = self._head_asked = time.monotonic()
        self._head = head
        self._looking: threading.Thread | None = None
        self._looked: dict[str, float] = {}
        self._found: list[WorkError | bool] = []

    def row(self, slide: int, parts: int, of: int) -> None:
        """A row has come: of this slide so many parts are there, of so many."""
        self._row_at = self._head_at = time.monotonic()
        self._say(f"{parts} of {of} parts of {self._names[slide]}" if parts < of else "")

    def idle(self) -> bool:
        """No row came for a second. Returns whether a node was left out: the stream is to start again without it.

        Raises:
            ClusterLostError: the head is gone.
            WorkError: nothing moves, or no node is left.
        """
        now = time.monotonic()
        if self._head_is_away(now):
            return False  # whatever else is asked of the cluster hangs
        look = self._watch.look()
        quiet_s = now - self._row_at
        still_s = min([quiet_s, *(o.moved for o in look.open)])
        if still_s > self._timeout_s:
            raise WorkError(f"nothing has moved for {still_s:.0f} s; {self.told(look, quiet_s)}")
        if quiet_s > QUIET_S:
            self._say(self.told(look, quiet_s))
        if self._found:
            found = self._found.pop()
            if isinstance(found, WorkError):
                raise found
            return found
        self._look_at_nodes(look, now)
        return False

    def told(self, look: Look, quiet_s: float) -> str:
        """What is waited for, in a line."""
        if not look.open:
            left = [name for i, name in enumerate(self._names) if i not in self._done]
            more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
            why = "processes start, CPUs are taken, or a node with parts of them does not answer"
            return f"waiting for {', '.join(left[:NAMED])}{more}, which nobody has been at for {quiet_s:.0f} s: {why}"
        longest = sorted(look.open, key=lambda o: -o.began)
        named = dict.fromkeys(f"{self._names[o.slide]} ({o.what} on {o.address} for {o.began:.0f} s)" for o in longest)
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        return f"waiting for {', '.join([*named][:NAMED])}{more}"

    def _head_is_away(self, now: float) -> bool:
        if now - self._head_asked < HEAD_EVERY_S:
            return self._head_at < self._head_asked
        self._head_asked = now
        if answers(self._head):
            self._head_at = time.monotonic()
            return False
        away_s = now - self._head_at
        if away_s > HEAD_GONE_S:
            raise ClusterLostError(f"the head of the Ray cluster at {self._head} has not answered for {away_s:.0f} s")
        self._say(f"waiting for the head of the Ray cluster at {self._head}, which does not answer")
        return True

    def _look_at_nodes(self, look: Look, now: float) -> None:
        """Examine, beside the stream, the nodes whose work stands still."""
        if not self._nodes.can_be_examined or (self._looking is not None and self._looking.is_alive()):
            return
        standing = {o.node_id for o in look.open if o.moved > STANDING_S and o.node_id not in self._nodes.left_out}
        if not look.open and now - self._row_at > STANDING_S:
            standing = set(self._nodes.usable())
        asked = {i for i in standing if now - self._looked.get(i, -1e9) > STANDING_S}
        if asked:
            self._looked |= dict.fromkeys(asked, now)
            self._looking = threading.Thread(target=self._examine, args=(asked,), name="uadray-nodes", daemon=True)
            self._looking.start()

    def _examine(self, node_ids: set[str]) -> None:
        try:
            if self._nodes.check(node_ids, but_not_the_last=True):
                self._found.append(True)
        except WorkError as error:
            self._found.append(error)


def answers(address: str) -> bool:
    """Whether somebody listens at `host:port`."""
    host, _, port = address.rpartition(":")
    with suppress(OSError, ValueError):
        socket.create_connection((host, int(port)), timeout=HEAD_TIMEOUT_S).close()
        return True
    return False
