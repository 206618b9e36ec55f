"""Counters arrive at Ray's Prometheus endpoint, under their names and no other labels than their own."""

import ast
import inspect
import json
import re
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest
import ray

import uadray
from uadray import metrics
from uadray.screening.results import PartCounter


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown stage"), metrics.stage("screen_raed"):
        pass


@ray.remote(num_cpus=0)
class Reader:
    def read(self) -> str:
        with metrics.stage("screen_read") as meter:
            meter.add(tiles=7, bytes_=700, errors=2)
        metrics.count_slide("failed")
        return str(ray.get_runtime_context().get_worker_id())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rays_endpoint_shows_what_was_counted() -> None:
    reader = Reader.remote()
    worker = ray.get(reader.read.remote())
    expected = {
        f'ray_{metrics.TILES}{{stage="screen_read"}}': 7.0,
        f'ray_{metrics.BYTES}{{stage="screen_read"}}': 700.0,
        f'ray_{metrics.ERRORS}{{stage="screen_read"}}': 2.0,
        f'ray_{metrics.SLIDES}{{state="failed"}}': 1.0,
    }
    series = _awaited(worker, expected, labels=("stage", "state"))
    assert any(name.startswith(f"ray_{metrics.SECONDS}") for name in series)


@ray.remote(num_cpus=0)
class Driver:
    """Counts as the driver of a screening does."""

    def screen(self) -> str:
        metrics.start_run("r1")
        part = {"header": json.dumps({"read_s": 0.5, "bytes": 300, "errors": 0, "score_s": 0.25, "tiles": 3})}
        counter = PartCounter()
        for _ in range(4):
            counter.add(part)
        counter.tell()
        metrics.count_slide("scored")
        return str(ray.get_runtime_context().get_worker_id())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_screening_counts_from_zero_under_its_own_name() -> None:
    """What did not happen is 0 and not absent: a rate of nothing is nothing, and no gap."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    driver = Driver.remote()
    worker = ray.get(driver.screen.remote())
    expected = {
        f'ray_{metrics.TILES}{{run="r1",stage="screen_read"}}': 12.0,
        f'ray_{metrics.BYTES}{{run="r1",stage="screen_score"}}': 1200.0,
        f'ray_{metrics.SECONDS}{{run="r1",stage="screen_read"}}': 2.0,
        f'ray_{metrics.SECONDS}{{run="r1",stage="screen_score"}}': 1.0,
        f'ray_{metrics.ERRORS}{{run="r1",stage="screen_read"}}': 0.0,
        f'ray_{metrics.SLIDES}{{run="r1",state="scored"}}': 1.0,
        f'ray_{metrics.SLIDES}{{run="r1",state="failed"}}': 0.0,
    }
    _awaited(worker, expected, labels=("stage", "state", "run"))


def _awaited(worker: str, expected: dict[str, float], *, labels: tuple[str, ...]) -> dict[str, float]:
    """The series of a process, once they are as expected."""
    series: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not expected.items() <= series.items():
        time.sleep(1)
        series = scraped(ray.nodes()[0]["MetricsExportPort"], worker, labels)
    assert expected.items() <= series.items()
    return series


PRIVATE = {
    "metrics.add": {"_record"},
    "serving.server._client": {"ray.serve.context._get_global_client"},
    "cluster.probe.head_client": {"ray._private.services.canonicalize_bootstrap_address", "ray._raylet.GcsClient"},
    "cluster.probe.head_versions": {"ray._common.usage.usage_lib.get_cluster_metadata"},
    "cluster.probe.has_node_here": {"ray._private.services.get_node_to_connect_for_driver"},
}
"""Function -> names of Ray's that are not public, used there and nowhere else."""


def test_private_names_of_ray_are_used_in_one_function_each() -> None:
    used: dict[str, set[str]] = defaultdict(set)
    of_uadray = {node.attr for _, tree in _trees() for node in ast.walk(tree) if _is_attribute_of_self(node)}
    for module, tree in _trees():
        for function in [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]:
            for name in _private_names(function) - of_uadray:
                used[f"{module}.{function.name}"].add(name)
        imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        for name in {name for node in imported for name in _private_names(node)}:
            alias = name.rpartition(".")[2]
            definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
            users = [node.name for node in definitions if _mentions(node, alias)]
            assert len(users) == 1, f"{module}: {name} is used by {users}"
            used[f"{module}.{users[0]}"].add(name)
    assert used == PRIVATE


def _trees() -> Iterator[tuple[str, ast.Module]]:
    package = Path(uadray.__file__).parent
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(r"\b(import ray|from ray)\b", text) or path.name == "metrics.py" or path.parent.name == "cluster":
            yield ".".join(path.relative_to(package).with_suffix("").parts), ast.parse(text)


def _private_names(tree: ast.AST) -> set[str]:
    """Of Ray's modules what is imported from behind an underscore; attributes behind one of anything but `self`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "ray":
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name for name in full if "._" in name}
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            names |= {a.value for a in node.args if isinstance(a, ast.Constant) and _is_private(a.value)}
    return names


def _is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def _is_attribute_of_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _mentions(tree: ast.AST, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def test_private_names_of_ray_mean_what_we_take_them_for() -> None:
    """Of those in `cluster.probe` tests/cluster/test_connection.py asks a real head."""
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client
    from ray.util.metrics import Counter

    assert callable(Counter._record)
    assert inspect.signature(_get_global_client).return_annotation in (
        ServeControllerClient | None,
        "Optional[ServeControllerClient]",
    )
    assert isinstance(ServeControllerClient.http_config, property)
    assert {"host", "port"} <= HTTPOptions.model_fields.keys()


def scraped(port: int, worker: str, labels: tuple[str, ...]) -> dict[str, float]:
    """The series of one process: other tests of the session count on the same cluster."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    series: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "uadray" in sample.name and sample.labels["WorkerId"] == worker:
                kept = {k: v for k, v in sample.labels.items() if k in labels}
                series[sample.name + "{" + ",".join(f'{k}="{v}"' for k, v in sorted(kept.items())) + "}"] = sample.value
    return series
