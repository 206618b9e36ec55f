"""Every node of the cluster is examined before work is given to it: a bad node is named instead of failing slides.

A task that asks for no CPU is pinned to each living node and does what `checks.examine_node` says. Whatever happens to
that task is a finding about the node too: uadray cannot be imported there, the node is gone, or it does not answer.
"""

import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uadray.cluster.checks import examine_node
from uadray.cluster.finding import Finding
from uadray.cluster.machine_checks import versions
from uadray.cluster.nodes import TIMEOUT_S, Examine, living_nodes
from uadray.cluster.store_checks import STORE_TIMEOUT_S, Marker
from uadray.errors import UadrayError
from uadray.storage import objects

CLOCK_S = 60.0
"""A clock that is wrong by more is a finding. S3 refuses requests at 15 minutes."""


def examiner(out: str | None, reads: Sequence[str]) -> Examine:
    """Examines what a job needs of a node: uadray, the objects in `reads`, and the folder `out` to write to."""

    def examine(node_ids: Collection[str], timeout_s: float) -> dict[str, list[str]]:
        store_s = min(STORE_TIMEOUT_S, timeout_s / 4)  # the store is asked twice: to read, and to write
        return examine_nodes(out, reads=reads, timeout_s=timeout_s, store_timeout_s=store_s, node_ids=node_ids)

    return examine


def examine_nodes(
    out_uri: str | None, *, reads: Sequence[str] = (), timeout_s: float = TIMEOUT_S,
    store_timeout_s: float = STORE_TIMEOUT_S, node_ids: Collection[str] | None = None,
) -> dict[str, list[str]]:  # fmt: skip
    """What speaks against giving work to each living node, by Ray's node id; an empty list for a good one.

    Args:
        out_uri: the folder for results; None checks only whether S3 takes the credentials.
        reads: objects that every node has to be able to read, such as the bundle's description and a slide.
        timeout_s: a node that has not answered by then is a bad one.
        store_timeout_s: how long each node waits for a store.
        node_ids: only these nodes.

    Raises:
        UadrayError: this machine itself cannot write to `out_uri`.
    """
    by_node = findings(out_uri, reads=reads, timeout_s=timeout_s, store_timeout_s=store_timeout_s, node_ids=node_ids)
    return {
        node_id: [f"{f.what}: {f.message}" for f in of_node if f.required and not f.ok]
        for node_id, of_node in by_node.items()
    }


def findings(
    out_uri: str | None, *, reads: Sequence[str] = (), timeout_s: float = TIMEOUT_S,
    store_timeout_s: float = STORE_TIMEOUT_S, node_ids: Collection[str] | None = None,
) -> dict[str, list[Finding]]:  # fmt: skip
    """All findings about each living node, good and bad, by Ray's node id; see `examine_nodes`."""
    nodes = [node for node in living_nodes() if node_ids is None or node["NodeID"] in node_ids]
    options = {"out_uri": out_uri, "reads": reads, "store_timeout_s": store_timeout_s}
    with _marker_in(out_uri) as marker:
        asked = _ask(nodes, marker, options)
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
        by_node = {asked[answer][0]: _answer(answer, asked[answer][1]) for answer in done}
        for answer in late:
            by_node[asked[answer][0]] = [_bad(f"no answer within {timeout_s:.0f} s; restart Ray there")]
            ray.cancel(answer, force=True)
    return by_node


@contextmanager
def _marker_in(out_uri: str | None) -> Iterator[Marker | None]:
    """A small object in the folder for results, for as long as nodes look whether they see it."""
    if out_uri is None:
        yield None
        return
    marker = Marker(objects.join(out_uri, f".{secrets.token_hex(8)}.uadray-tmp"), secrets.token_bytes(16))
    objects.write_bytes(marker.uri, marker.content)
    try:
        yield marker
    finally:
        with suppress(UadrayError):
            objects.delete(marker.uri)


def _ask(
    nodes: Sequence[dict[str, Any]], marker: Marker | None, options: dict[str, Any]
) -> dict[Any, tuple[str, float]]:
    """Start one task on each node; returns Ray's reference of each -> the node's id, and when it was asked."""
    task = ray.remote(num_cpus=0, max_retries=0)(_examine_here)
    expected = versions()
    asked = {}
    for node in nodes:
        pinned = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        answer = pinned.remote(expected, marker, gpus=int(node["Resources"].get("GPU", 0)), **options)
        asked[answer] = (node["NodeID"], time.time())
    return asked


def _examine_here(expected: dict[str, str], marker: Marker | None, **options: Any) -> tuple[list[Finding], float]:
    """The task: findings about this node, and what its clock says."""
    return examine_node(expected, marker, **options), time.time()


def _answer(answer: Any, asked_at: float) -> list[Finding]:
    """Findings about a node that has answered, by a result or by an error."""
    try:
        node_findings, node_time = ray.get(answer)
    except Exception as error:  # of many kinds; each says that this node cannot do what it will be asked for
        return [_bad(_explained(error))]
    return [*node_findings, *_clock(node_time, asked_at, time.time())]


def _clock(node_time: float, asked_at: float, answered_at: float) -> list[Finding]:
    """A finding where a node's clock is not between the two times of this machine, by more than `CLOCK_S`.

    >>> [f.message.partition(";")[0] for f in _clock(100.0, 200.0, 201.0)], _clock(170.0, 200.0, 201.0)
    (["100 s behind the driver's machine"], [])
    """
    offset_s = min(0.0, node_time - asked_at) + max(0.0, node_time - answered_at)
    if abs(offset_s) <= CLOCK_S:
        return []
    way = "ahead of" if offset_s > 0 else "behind"
    text = f"{abs(offset_s):.0f} s {way} the driver's machine; start chrony or systemd-timesyncd there"
    return [Finding("clock", False, text)]


def _explained(error: Exception) -> str:
    """The first cause in an error of Ray's, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError"))]
    if missing:
        return f"uadray cannot be imported ({missing[-1]}); install the same uadray as on the driver's machine"
    return f"cannot run a task ({type(error).__name__}: {(lines or [''])[-1][:300]}); restart Ray there"


def _bad(text: str) -> Finding:
    return Finding("worker", False, text)
