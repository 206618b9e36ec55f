"""What becomes of a slide that the system has failed at: tried again elsewhere, until it is clear whose fault it is.

    fault --> the node is to blame (broken device, no access from there, no uadray)
      |           the node is left out, the slide is given back
      |
      |-> 6 faults in a row, at whichever slides                    the job stops: WorkError
      |
      |-> 1st or 2nd of this slide (memory: the 1st)                the slide is given back
      |
      `-> 3rd of this slide (memory: the 2nd)
              |-- memory                                            verdict: the slide is `crashed`
              |-- the driver is refused it too, and can read
              |   another slide that was scored                     verdict: the slide failed for this reason
              `-- else                                              no verdict: a later run tries it

A slide that is scored, or that fails by itself, ends the row of faults.
"""

from collections import Counter
from dataclasses import dataclass

from uadray import metrics
from uadray.cluster.nodes import Nodes
from uadray.errors import UadrayError, WorkError, reason_of, shown_text
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.storage.slide_files import slide_stat

MAX_TRIES = 3
"""Of a slide, before it is given up."""

MAX_IN_A_ROW = 6
"""Faults of the system without a slide that ends in between: then no slide is to blame."""

MAX_BREAKS = 3
"""Streams in a row that Ray ends before a slide has ended in them."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of a slide that the system failed at.

    Attributes:
        again: whether it is tried again.
        failure: reason and message, where it is not.
        is_verdict: whether the failure is the slide's; otherwise the slide stays open for a later run.
    """

    again: bool
    failure: tuple[str, str] = ("", "")
    is_verdict: bool = False


class Attempts:
    """The faults of one job so far.

    Attributes:
        nodes: those that are used.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._tries: Counter[str] = Counter()
        self._in_a_row = self._breaks = 0
        self._last_scored: SlideRow | None = None

    def worked(self, row: SlideRow) -> None:
        """Note that a slide was scored."""
        self._in_a_row = self._breaks = 0
        self._last_scored = row

    def ended(self) -> None:
        """Note that a slide has failed by itself."""
        self._in_a_row = self._breaks = 0

    def failed(self, row: SlideRow, reason: str, message: str, *, node_id: str, address: str) -> Outcome:
        """What becomes of a slide that a fault of the system has met.

        Raises:
            WorkError: too many in a row, or no node is left.
        """
        self._tries[row.slide_id] += 1
        metrics.count(metrics.RETRIES, cause=reason)
        if self._leaves_out_the_node(reason, message, node_id):
            self._in_a_row = 0
            return Outcome(again=True)
        self._in_a_row += 1
        at_node = f" (node {address})" if address else ""
        if self._in_a_row >= MAX_IN_A_ROW:
            raise WorkError(
                f"{self._in_a_row} faults in a row that are no slide's, the last: {reason}: {message}{at_node}"
            )
        if self._tries[row.slide_id] < (2 if reason == "memory" else MAX_TRIES):
            return Outcome(again=True)
        if reason == "memory":
            return Outcome(again=False, failure=("crashed", message), is_verdict=True)
        is_verdict = self._is_the_slides(row, reason)
        return Outcome(again=False, failure=(reason, f"{message}{at_node}"), is_verdict=is_verdict)

    def broke(self, message: str) -> None:
        """Note that Ray has ended a stream; the nodes are examined.

        Raises:
            WorkError: it was the third in a row, or no node is left.
        """
        self._breaks += 1
        if self.nodes.check():
            self._breaks = 0
        elif self._breaks >= MAX_BREAKS:
            raise WorkError(f"Ray has ended the work {self._breaks} times in a row: {message}")

    def _leaves_out_the_node(self, reason: str, message: str, node_id: str) -> bool:
        """Leave out the node if it is to blame; returns whether it was."""
        if reason in ("device", "node"):
            self.nodes.leave_out(node_id, shown_text(message))
            return True
        return reason in ("no_access", "unreachable") and self.nodes.check([node_id])

    def _is_the_slides(self, row: SlideRow, reason: str) -> bool:
        """Whether the driver is refused this slide in the same way, and can read one that was scored."""
        if reason not in ("no_access", "unreachable") or self._last_scored is None:
            return False
        return _refusal(row) == reason and _refusal(self._last_scored) is None


def _refusal(row: SlideRow) -> str | None:
    """The reason why the driver cannot read a slide's file; None where it can."""
    try:
        slide_stat(row.uri)
    except UadrayError as error:
        return reason_of(error)[0]
    return None


def is_there(uri: str) -> bool:
    """Whether the driver sees the file of a slide; False where that cannot be told."""
    try:
        return objects.exists(uri)
    except UadrayError:
        return False
