"""The nodes of the cluster, and which of them a job uses."""

import logging
from collections.abc import Callable, Collection
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uadray.errors import WorkError

log = logging.getLogger(__name__)

TIMEOUT_S = 90.0
"""For a node to answer before a job: a worker process starts on a busy node, imports, and waits for the store."""

AGAIN_TIMEOUT_S = 30.0
"""For a node to answer in the middle of a job: it has processes that are ready."""

Examine = Callable[[Collection[str], float], dict[str, list[str]]]
"""Examines nodes, by id, for so many seconds; returns what is wrong with each, nothing for one that can be used."""


class Nodes:
    """The nodes of one job. One that cannot be used is named once and left out; its slides go to others.

    Attributes:
        left_out: id of each node that is not used -> its address, and why.
        share: of the cluster's CPUs that this job may use, where others run beside it.
    """

    def __init__(self, examine: Examine | None = None, *, share: float = 1.0) -> None:
        self.left_out: dict[str, str] = {}
        self.share = share
        self._examine = examine
        self._addresses: dict[str, str] = {}

    @property
    def can_be_examined(self) -> bool:
        """Whether there is a way to examine them; there is none for a node that the command has started itself."""
        return self._examine is not None

    def usable(self) -> dict[str, dict[str, Any]]:
        """Ray's description of the nodes that are alive and not left out, by id."""
        usable = {node["NodeID"]: node for node in living_nodes() if node["NodeID"] not in self.left_out}
        self._addresses |= {node_id: str(node["NodeManagerAddress"]) for node_id, node in usable.items()}
        return usable

    def troubles(self) -> list[str]:
        """What was wrong with nodes in this job: those that were left out, and those that were lost."""
        usable = self.usable()
        lost = [address for i, address in self._addresses.items() if i not in usable and i not in self.left_out]
        return [*self.left_out.values(), *(f"node {address}: lost" for address in lost)]

    def count(self) -> int:
        """Usable nodes that have CPUs."""
        return sum(_cpus(node) > 0 for node in self.usable().values())

    def cores(self) -> int:
        """CPUs of all usable nodes."""
        return int(sum(_cpus(node) for node in self.usable().values()))

    def job_cpus(self) -> float:
        """CPUs that this job may use: its share of all."""
        return self.share * self.cores()

    def gpus(self) -> float:
        """GPUs of all usable nodes."""
        return float(sum(node["Resources"].get("GPU", 0) for node in self.usable().values()))

    def selector(self) -> dict[str, str] | None:
        """Ray's label selector that keeps work off the nodes that are left out; None where there are none."""
        return {"ray.io/node-id": f"!in({','.join(sorted(self.left_out))})"} if self.left_out else None

    def check(self, node_ids: Collection[str] | None = None, *, but_not_the_last: bool = False) -> bool:
        """Examine nodes and leave out those that cannot be used; returns whether there were any.

        Args:
            node_ids: which; None for all that are used.
            but_not_the_last: keep them where no other node would be left.

        Raises:
            WorkError: no node is left.
        """
        if self._examine is None:
            return False
        usable = self.usable()
        asked = [i for i, node in usable.items() if (node_ids is None or i in node_ids) and _cpus(node) > 0]
        timeout_s = TIMEOUT_S if node_ids is None else AGAIN_TIMEOUT_S
        findings = self._examine(asked, timeout_s) if asked else {}
        problems = {node_id: "; ".join(problems) for node_id, problems in findings.items() if problems}
        others = any(_cpus(node) > 0 for i, node in usable.items() if i not in problems)
        if but_not_the_last and not others:
            return False
        for node_id, why in problems.items():
            self.leave_out(node_id, why)
        return bool(problems)

    def leave_out(self, node_id: str, why: str) -> None:
        """Stop using a node, and say so.

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


def _cpus(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("CPU", 0))


def living_nodes() -> list[dict[str, Any]]:
    """Ray's description of every node that it takes for alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def dead_nodes() -> set[str]:
    """Ids of the nodes that the cluster has lost so far."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def node_name(node: dict[str, Any]) -> str:
    """A node for people: its address, and enough of its id to tell two nodes on one machine apart."""
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def head_address() -> str:
    """`host:port` of the cluster's head, where its nodes are told which of them are alive."""
    return str(ray.get_runtime_context().gcs_address)


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the driver's node: it is lost when the driver is, and with no other node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
