"""Counters arrive at Ray's Prometheus endpoint, under their names and no other labels than their own."""

import ast
import inspect
import re
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

import pytest
import ray

import uadray
from uadray import metrics
from uadray.decisions.verdict import NOT_ASSESSABLE_REASONS
from uadray.errors import SYSTEM_REASONS
from uadray.screening.part_counts import count_part
from uadray.tiles.quality import REASONS


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown stage"), metrics.stage("screen_raed"):
        pass


@pytest.fixture
def run() -> Iterator[None]:
    metrics.start_run("0123abcd", info={"bundle": "b", "detector": "fanogan"})
    yield
    metrics.end_run()


def test_a_run_begins_with_every_counter_at_0(run: None) -> None:
    """What did not happen is 0 and not absent: a rate of nothing is nothing, and no gap."""
    known = metrics.told()
    assert known[metrics.ERRORS, ("screen_read",)] == known[metrics.RETRIES, ("no_access",)] == 0
    assert known[metrics.SLIDES, ("failed",)] == known[metrics.REASONS, ("no_mpp",)] == 0
    assert known[metrics.RUN_INFO, ("screen", "b", "fanogan", "", uadray.__version__)] == 1
    assert {stage for name, (stage, *_) in known if name == metrics.TILES} == {"screen_read", "screen_score"}
    assert {stage for name, (stage, *_) in known if name == metrics.STAGE_SECONDS} == {*metrics.PARTS_OF_WORK}
    assert set(dict.fromkeys(name for name, _ in known)) >= {metrics.WAIT_SECONDS, metrics.QUEUE, metrics.CACHE_BYTES}


def test_every_fault_of_the_system_is_a_cause_and_every_end_of_a_slide_a_reason() -> None:
    assert set(metrics.CAUSES) == SYSTEM_REASONS | {"crashed"}
    assert set(metrics.SLIDE_REASONS) >= SYSTEM_REASONS | {"crashed", "changed", "missing", "unreadable"}
    assert set(metrics.SLIDE_REASONS) >= set(REASONS.values()) | NOT_ASSESSABLE_REASONS


def test_what_is_not_known_beforehand_is_other(run: None) -> None:
    metrics.count_slide("failed", "a reason that nobody has thought of")
    metrics.count_slide("failed", "Jane Doe.svs")
    assert metrics.told()[metrics.REASONS, ("other",)] == 2
    with pytest.raises(ValueError, match="has the labels stage"):
        metrics.count(metrics.TILES, 1, slide="a")


def test_series_are_bounded_whatever_is_counted(run: None) -> None:
    for i in range(1000):
        metrics.count(metrics.RETRIES, cause=f"cause {i}")
        metrics.set_gauge(metrics.TRAIN_LOSS, i, loss=f"loss {i} " + 200 * "x")
        metrics.set_gauge(metrics.QUEUE, i, queue=f"queue {i}")
    series = Counter(name for name, _ in metrics.told())
    assert series[metrics.TRAIN_LOSS] == metrics.MOST_VALUES + 1
    assert series[metrics.RETRIES] == len(metrics.CAUSES) + 1
    assert max(len(value) for _, values in metrics.told() for value in values) <= metrics.LONGEST_VALUE
    assert sum(series.values()) < 150


def test_the_series_of_twenty_screenings_are_those_of_one() -> None:
    """A run that has ended leaves after `LINGER_S`; the agent drops a gauge that is not set any more."""
    for i in range(20):
        metrics.start_run(f"{i:08x}")
        metrics.count_slide("scored")
    metrics.end_run()
    names = {run.name for run in metrics.told_runs(time.monotonic())}
    assert names >= {"", "00000000", "00000013"}
    assert [run.name for run in metrics.told_runs(time.monotonic() + metrics.LINGER_S + 1)] == [""]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rays_endpoint_shows_what_was_counted_and_forgets_the_run() -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    driver = Driver.remote()
    worker = ray.get(driver.screen.remote())
    expected = {
        f'ray_{metrics.TILES}{{run="r1",stage="screen_read"}}': 12.0,
        f'ray_{metrics.BYTES}{{run="r1",stage="screen_score"}}': 1200.0,
        f'ray_{metrics.SECONDS}{{run="r1",stage="screen_read"}}': 2.0,
        f'ray_{metrics.STAGE_SECONDS}{{run="r1",stage="decode"}}': 1.0,
        f'ray_{metrics.ERRORS}{{run="r1",stage="screen_read"}}': 0.0,
        f'ray_{metrics.SLIDES}{{run="r1",state="scored"}}': 1.0,
        f'ray_{metrics.SLIDES}{{run="r1",state="failed"}}': 0.0,
        f'ray_{metrics.TILES}{{run="r2",stage="screen_read"}}': 0.0,
    }
    _awaited(worker, lambda series: expected.items() <= series.items(), labels=("stage", "state", "run"))
    ray.kill(driver)
    _awaited(worker, lambda series: not series, labels=("run",))


@ray.remote(num_cpus=0)
class Driver:
    """Counts as the driver of two screenings does, of which the second has just begun."""

    def screen(self) -> str:
        metrics.start_run("r1")
        header = {"read_s": 0.5, "bytes": 300, "errors": 0, "score_s": 0.25, "tiles": 3, "stages": {"decode": 0.25}}
        for _ in range(4):
            count_part(header)
        metrics.count_slide("scored")
        metrics.start_run("r2")
        count_part(header)
        return str(ray.get_runtime_context().get_worker_id())


def _awaited(worker: str, is_met: Callable[[Mapping[str, float]], bool], *, labels: tuple[str, ...]) -> None:
    """Wait until the series of a process are as expected."""
    series: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        series = scraped(ray.nodes()[0]["MetricsExportPort"], worker, labels)
        if is_met(series):
            return
        time.sleep(0.5)
    raise AssertionError(series)


PRIVATE = {
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
