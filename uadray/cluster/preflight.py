"""Looking at every node of the cluster before work is given to it, so that a bad one is named and not met.

A task that is pinned to each living node, and asks for no CPU, does what `checks.examine_node` says. Whatever
happens to it there is a finding about that node: uadray cannot be imported, the node is gone, or says nothing.
"""

import secrets
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uadray.cluster.checks import STORE_TIMEOUT_S, Finding, Marker, examine_node, versions
from uadray.errors import UadrayError
from uadray.storage import objects

TIMEOUT_S = 90.0
"""For a worker process to start on a busy node, to import, and to wait for the store."""

CLOCK_S = 60.0
"""A clock that is wrong by more is a finding. S3 refuses requests at 15 minutes."""


def examine_nodes(
    out_uri: str | None, *, reads: Sequence[str] = (), timeout_s: float = TIMEOUT_S,
    store_timeout_s: float = STORE_TIMEOUT_S, node_ids: Collection[str] | None = None,
) -> dict[str, list[str]]:  # fmt: skip
    """What speaks against giving work to each living node: an empty list for a good one, keyed by Ray's node id.

    Args:
        out_uri: where results are to be written; None looks only whether S3 takes the credentials.
        reads: objects that every node has to be able to read, such as the bundle's description and a slide.
        timeout_s: a node that has not answered by then is a bad one.
        store_timeout_s: how long each node waits for a store.
        node_ids: only these nodes.

    Raises:
        UadrayError: this machine itself cannot write to `out_uri`.
    """
    found = findings(out_uri, reads=reads, timeout_s=timeout_s, store_timeout_s=store_timeout_s, node_ids=node_ids)
    return {
        node: [f"{finding.what}: {finding.message}" for finding in some if finding.required and not finding.ok]
        for node, some in found.items()
    }


def findings(
    out_uri: str | None, *, reads: Sequence[str] = (), timeout_s: float = TIMEOUT_S,
    store_timeout_s: float = STORE_TIMEOUT_S, node_ids: Collection[str] | None = None,
) -> dict[str, list[Finding]]:  # fmt: skip
    """All that was looked at on each living node, good and bad, keyed by Ray's node id; see `examine_nodes`."""
    marker = None
    if out_uri is not None:
        marker = Marker(objects.join(out_uri, f".{secrets.token_hex(8)}.uadray-tmp"), secrets.token_bytes(16))
        objects.write_bytes(marker.uri, marker.content)
    expected = versions()
    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    try:
        tasks: dict[Any, tuple[str, float]] = {}
        for node in living_nodes():
            if node_ids is not None and node["NodeID"] not in node_ids:
                continue
            pinned = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            options = {"gpus": int(node["Resources"].get("GPU", 0)), "store_timeout_s": store_timeout_s}
            answer = pinned.remote(expected, marker, out_uri=out_uri, reads=reads, **options)
            tasks[answer] = (node["NodeID"], time.time())
        done, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=timeout_s) if tasks else ([], [])
        found = {tasks[answer][0]: _answer(answer, tasks[answer][1]) for answer in done}
        for answer in late:
            found[tasks[answer][0]] = [_bad(f"no answer within {timeout_s:.0f} s; restart Ray there")]
            ray.cancel(answer, force=True)
        return found
    finally:
        if marker is not None:
            with suppress(UadrayError):
                objects.delete(marker.uri)


def living_nodes() -> list[dict[str, Any]]:
    """Ray's description of every node that it takes for alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def node_name(node: dict[str, Any]) -> str:
    """A node for people: its address, and so much of its id that two on one machine can be told apart."""
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _look(expected: dict[str, str], marker: Marker | None, **options: Any) -> tuple[list[Finding], float]:
    return examine_node(expected, marker, **options), time.time()


def _answer(answer: Any, asked_at: float) -> list[Finding]:
    try:
        some, then = ray.get(answer)
    except Exception as error:  # Ray has many; each says that this node cannot do what it will be asked for
        return [_bad(_explained(error))]
    now = time.time()
    offset_s = min(0.0, then - asked_at) + max(0.0, then - now)
    if abs(offset_s) > CLOCK_S:
        way = "ahead of" if offset_s > 0 else "behind"
        text = f"{abs(offset_s):.0f} s {way} the driver's machine; start chrony or systemd-timesyncd there"
        return [*some, Finding("clock", False, text)]
    return list(some)


def _explained(error: Exception) -> str:
    """The first cause of what Ray says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError"))]
    if missing:
        return f"uadray cannot be imported ({missing[-1]}); install the same uadray as on the driver's machine"
    return f"cannot run a task ({type(error).__name__}: {(lines or [''])[-1][:300]}); restart Ray there"


def _bad(text: str) -> Finding:
    return Finding("worker", False, text)
