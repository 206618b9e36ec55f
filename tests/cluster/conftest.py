"""Clusters for the tests of this folder: a head that asks for a token, and one that Ray is only said to have."""

from collections.abc import Iterator

import pytest
from ray_nodes import token_head


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, str]]:
    """A head started by `ray start` in token mode; its address, and its folder."""
    with token_head() as started:
        yield started


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What Ray says of two nodes with CPUs and a head without."""
    nodes: list[dict[str, object]] = [
        {"NodeID": name, "Alive": True, "NodeManagerAddress": f"10.0.0.{i}", "Resources": {"CPU": cpus}}
        for i, (name, cpus) in enumerate([("head", 0), ("a", 2), ("b", 2)])
    ]
    monkeypatch.setattr("uadray.cluster.nodes.ray.nodes", lambda: nodes)
    return nodes
