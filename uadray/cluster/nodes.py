"""Which nodes of the cluster a job uses. One that cannot be used is named once, left out, and others do its slides."""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ray

from uadray.cluster.checks import STORE_TIMEOUT_S
from uadray.cluster.preflight import TIMEOUT_S, examine_nodes
from uadray.errors import WorkError

log = logging.getLogger(__name__)

AGAIN_TIMEOUT_S = 30.0
"""A node that is looked at in the middle of a job has processes that are ready: it answers sooner."""

Examine = Callable[[Collection[str], float], dict[str, list[str]]]
"""Looks at nodes, by id, for so many seconds; returns what is wrong with each, nothing where it can be used."""


def examiner(out: str | None, reads: Sequence[str]) -> Examine:
    """Looks at what a job needs of a node: uadray, `reads`, and where it writes to."""

    def examine(node_ids: Collection[str], timeout_s: float) -> dict[str, list[str]]:
        store_s = min(STORE_TIMEOUT_S, timeout_s / 4)  # once for what is read, once for where is written
        return examine_nodes(out, reads=reads, timeout_s=timeout_s, store_timeout_s=store_s, node_ids=node_ids)

    return examine


class Nodes:
    """The nodes of one job.

    Attributes:
        left_out: id of a node that is not used -> its address, and why.
    """

    def __init__(self, examine: Examine | None = None) -> None:
        self.left_out: dict[str, str] = {}
        self._examine = examine
        self._seen: dict[str, str] = {}

    @property
    def can_be_examined(self) -> bool:
        """Whether there is a way to look at them; not at the one that a command has started itself."""
        return self._examine is not None

    def usable(self) -> dict[str, dict[str, Any]]:
        """What Ray says of the nodes that are alive and used, by id."""
        found = {n["NodeID"]: n for n in ray.nodes() if n["Alive"] and n["NodeID"] not in self.left_out}
        self._seen |= {node_id: str(node["NodeManagerAddress"]) for node_id, node in found.items()}
        return found

    def troubles(self) -> list[str]:
        """What was wrong with nodes in this job, and where: those that were left out, and those that were lost."""
        alive = self.usable()
        gone = [address for i, address in self._seen.items() if i not in alive and i not in self.left_out]
        return [*self.left_out.values(), *(f"node {address}: lost" for address in gone)]

    def count(self) -> int:
        """Nodes that have CPUs."""
        return sum(n["Resources"].get("CPU", 0) > 0 for n in self.usable().values())

    def cores(self) -> int:
        """CPUs of all of them."""
        return int(sum(n["Resources"].get("CPU", 0) for n in self.usable().values()))

    def gpus(self) -> float:
        """GPUs of all of them."""
        return float(sum(n["Resources"].get("GPU", 0) for n in self.usable().values()))

    def selector(self) -> dict[str, str] | None:
        """Where Ray may place work, by the label that each node has."""
        return {"ray.io/node-id": f"!in({','.join(sorted(self.left_out))})"} if self.left_out else None

    def check(self, node_ids: Collection[str] | None = None, *, but_not_the_last: bool = False) -> bool:
        """Look at nodes (all that are used unless named); leaves out what cannot be used and tells whether it did.

        Args:
            node_ids: which.
            but_not_the_last: keep them where no other would be left.

        Raises:
            WorkError: no node is left.
        """
        if self._examine is None:
            return False
        usable = self.usable()
        asked = [i for i in usable if (node_ids is None or i in node_ids) and usable[i]["Resources"].get("CPU", 0) > 0]
        timeout_s = TIMEOUT_S if node_ids is None else AGAIN_TIMEOUT_S
        found = self._examine(asked, timeout_s) if asked else {}
        problems = {node_id: "; ".join(some) for node_id, some in found.items() if some}
        others = any(n["Resources"].get("CPU", 0) > 0 for i, n in usable.items() if i not in problems)
        if but_not_the_last and not others:
            return False
        for node_id, why in problems.items():
            self.leave_out(node_id, why)
        return bool(problems)

    def leave_out(self, node_id: str, why: str) -> None:
        """Use a node no more, and say so.

        Raises:
            WorkError: none is left.
        """
        if not node_id or node_id in self.left_out:
            return
        node = next((n for n in ray.nodes() if n["NodeID"] == node_id), None)
        address = node["NodeManagerAddress"] if node else node_id[:12]
        self.left_out[node_id] = f"node {address}: {' '.join(why.split())[:300]}"
        if self.count() == 0:
            raise WorkError(f"no node can be used; {'; '.join(self.left_out.values())}")
        log.warning("%s; it is not used, its slides go to others", self.left_out[node_id])


def head_address() -> str:
    """`host:port` of the cluster's head, from where its nodes are told what is alive."""
    return str(ray.get_runtime_context().gcs_address)


def here() -> tuple[str, str]:
    """Ray's id of this node and its address; empty outside of Ray."""
    if not ray.is_initialized():
        return "", ""
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
