"""The private names of Ray behind the probe, against a real head: they are there, and mean the same."""

import platform
from pathlib import Path

import pytest
import ray
from ray_nodes import TOKEN

from uadray.cluster import joining, probe

pytestmark = pytest.mark.ray

HERE = {"ray_version": ray.__version__, "python_version": platform.python_version()}


def test_rays_private_names_mean_the_same(ray_cluster: None) -> None:
    """`canonicalize_bootstrap_address`, `GcsClient`, `get_cluster_metadata` and `get_node_to_connect_for_driver`."""
    client = probe.head_client(ray.get_runtime_context().gcs_address)
    assert probe.head_versions(client) == HERE
    assert probe.has_node_here(client)


def test_a_head_that_takes_the_token(head: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert joining._probe(head[0], tmp_path / "log") == {"problem": "", **HERE}
