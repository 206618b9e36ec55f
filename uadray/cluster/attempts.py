"""Slides that the system has failed at: given back, tried again elsewhere, until it is clear whose fault it is.

a fault of the system at a slide
    the node cannot be used (broken device, no access, no uadray)   it is left out; the others go on
    many slides in a row, whatever the node                        the job stops in one line
    the same slide three times, while others go through            if the driver, which can read others, is
                                                                   refused as well, the slide fails by that name;
                                                                   else it stays open, and a later run tries it
"""

from collections import Counter
from dataclasses import dataclass

from uadray.cluster.nodes import Nodes
from uadray.errors import UadrayError, WorkError, reason_of, shown_text
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.storage.slide_files import slide_stat

MAX_TRIES = 3
"""Of a slide."""

MAX_IN_A_ROW = 6
"""Faults of the system without a slide that ends in between: then it is not about slides."""

MAX_BREAKS = 3
"""Streams in a row that Ray ends without a slide having ended."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of a slide that the system failed at.

    Attributes:
        again: it is tried again.
        failure: reason and message, where it is not.
        is_verdict: whether that is about the slide; otherwise it stays open.
    """

    again: bool
    failure: tuple[str, str] = ("", "")
    is_verdict: bool = False


class Attempts:
    """Of one job. `nodes`: those that are used."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._tries: Counter[str] = Counter()
        self._in_a_row = self._breaks = 0
        self._good: SlideRow | None = None

    def worked(self, row: SlideRow) -> None:
        """A slide was scored."""
        self._in_a_row = self._breaks = 0
        self._good = row

    def ended(self) -> None:
        """A slide has come to an end of its own."""
        self._in_a_row = self._breaks = 0

    def failed(self, row: SlideRow, reason: str, message: str, *, node_id: str, address: str) -> Outcome:
        """A fault of the system has met a slide.

        Raises:
            WorkError: too many in a row, or no node is left.
        """
        self._tries[row.slide_id] += 1
        if self._is_of_the_node(reason, message, node_id):
            self._in_a_row = 0
            return Outcome(again=True)
        self._in_a_row += 1
        where = f" (node {address})" if address else ""
        if self._in_a_row >= MAX_IN_A_ROW:
            raise WorkError(
                f"{self._in_a_row} faults in a row that are no slide's, the last: {reason}: {message}{where}"
            )
        if self._tries[row.slide_id] < (2 if reason == "memory" else MAX_TRIES):
            return Outcome(again=True)
        if reason == "memory":
            return Outcome(again=False, failure=("crashed", message), is_verdict=True)
        return Outcome(again=False, failure=(reason, f"{message}{where}"), is_verdict=self._is_the_slides(row, reason))

    def broke(self, message: str) -> None:
        """Ray has ended a stream.

        Raises:
            WorkError: again and again, or no node is left.
        """
        self._breaks += 1
        if self.nodes.check():
            self._breaks = 0
        elif self._breaks >= MAX_BREAKS:
            raise WorkError(f"Ray has ended the work {self._breaks} times in a row: {message}")

    def _is_of_the_node(self, reason: str, message: str, node_id: str) -> bool:
        """Leave out the node if it is to blame."""
        if reason in ("device", "node"):
            self.nodes.leave_out(node_id, shown_text(message))
            return True
        return reason in ("no_access", "unreachable") and self.nodes.check([node_id])

    def _is_the_slides(self, row: SlideRow, reason: str) -> bool:
        """Whether the driver is refused this slide in the same way, and can read another."""
        if reason not in ("no_access", "unreachable") or self._good is None:
            return False
        try:
            slide_stat(row.uri)
        except UadrayError as error:
            if reason_of(error)[0] != reason:
                return False
        else:
            return False
        try:
            slide_stat(self._good.uri)
        except UadrayError:
            return False
        return True


def is_there(uri: str) -> bool:
    """Whether the driver sees the file of a slide; False where that cannot be told."""
    try:
        return objects.exists(uri)
    except UadrayError:
        return False
