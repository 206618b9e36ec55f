"""Which nodes a job uses."""

from collections.abc import Collection

import pytest

from uadray.cluster.nodes import AGAIN_TIMEOUT_S, TIMEOUT_S, Nodes, node_name
from uadray.cluster.place import here
from uadray.errors import WorkError


def test_nodes_that_are_lost_are_told(two_nodes: list[dict[str, object]]) -> None:
    nodes = Nodes()
    assert nodes.count() == 2
    assert nodes.troubles() == []
    nodes.leave_out("a", "no uadray")
    two_nodes[2]["Alive"] = False
    assert nodes.troubles() == ["node 10.0.0.1: no uadray", "node 10.0.0.2: lost"]


@pytest.mark.usefixtures("two_nodes")
def test_nodes_that_cannot_be_used_are_left_out() -> None:
    asked: list[tuple[list[str], float]] = []
    problems = {"a": ["output: disk full", "clock: wrong"], "b": []}

    def examine(node_ids: Collection[str], timeout_s: float) -> dict[str, list[str]]:
        asked.append((sorted(node_ids), timeout_s))
        return {node_id: problems[node_id] for node_id in node_ids}

    nodes = Nodes(examine)
    assert nodes.check()
    assert nodes.left_out == {"a": "node 10.0.0.1: output: disk full; clock: wrong"}
    assert (nodes.count(), nodes.cores(), nodes.selector()) == (1, 2, {"ray.io/node-id": "!in(a)"})
    assert not nodes.check(["a", "b"])
    assert asked == [(["a", "b"], TIMEOUT_S), (["b"], AGAIN_TIMEOUT_S)], "no head without CPUs, none that is left out"
    problems["b"] = ["S3: refused"]
    assert not nodes.check(["b"], but_not_the_last=True)
    with pytest.raises(WorkError, match=r"no node can be used; node 10\.0\.0\.1: .*; node 10\.0\.0\.2: S3: refused"):
        nodes.check()


def test_a_node_for_people(two_nodes: list[dict[str, object]]) -> None:
    assert node_name(two_nodes[1] | {"NodeID": "0123456789"}) == "node 10.0.0.1 (01234567)"


def test_outside_of_ray_there_is_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadray.cluster.nodes.ray.is_initialized", lambda: False)
    assert here() == ("", "")
