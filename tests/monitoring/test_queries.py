"""Queries of the dashboards: each metric and label exists, in uadray, the exporter or Ray, and promtool parses them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dashboard_queries import Query, of_panels, of_variables, series

from uadray import metrics
from uadray.monitoring import queries as q
from uadray.monitoring.exported import EXPORTED

RAY_SERIES = Path(__file__).with_name("ray_series.txt")

OF_PROMETHEUS = {"ALERTS": {"alertname", "alertstate", "severity", "screening"}}


def _ray_series() -> dict[str, set[str]]:
    lines = [line.removeprefix("! ").split() for line in RAY_SERIES.read_text().splitlines() if line[0] != "#"]
    every = next(set(labels) for name, *labels in lines if name == "*")
    return {name: {*labels, *every} for name, *labels in lines}


def _of_uadray() -> dict[str, set[str]]:
    common = {"run", "SessionName", "ray_io_cluster"}
    return {f"ray_{name}": {*metric.labels, *common} for name, metric in metrics.METRICS.items()}


def _of_the_exporter() -> dict[str, set[str]]:
    endings = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        f"{name}{ending}": {"screening", *of.labels, *(["le"] if ending == "_bucket" else [])}
        for name, of in EXPORTED.items()
        for ending in endings[of.kind]
    }


KNOWN = _ray_series() | _of_uadray() | OF_PROMETHEUS | _of_the_exporter()
"""Every series that a dashboard may ask for, and its labels."""


ALL = [*of_panels(), *of_variables()]

every_query = pytest.mark.parametrize("query", ALL, ids=[f"{query.board}: {query.panel}" for query in ALL])


def test_there_is_much_to_test() -> None:
    assert len(ALL) > 120
    assert len({name for query in ALL for name, _ in series(query.expr)}) > 60


@every_query
def test_each_name_and_label_exists(query: Query) -> None:
    found = series(query.expr)
    assert found
    for name, matchers in found:
        assert name in KNOWN
        assert matchers.keys() <= KNOWN[name], name
    labels = set().union(*(KNOWN[name] for name, _ in found)) | {"le"}
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query.expr) for label in group.split(",")}
    assert grouped <= labels
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= grouped, "a legend names a label that is gone"


def _metric(name: str) -> metrics.Metric | None:
    return metrics.METRICS.get(name.removeprefix("ray_")) if name.startswith("ray_") else None


@every_query
def test_each_value_that_a_label_is_compared_with_is_known(query: Query) -> None:
    for name, matchers in series(query.expr):
        metric = _metric(name)
        for label, pattern in matchers.items() if metric else ():
            known = metric.labels.get(label)
            assert not known or any(re.fullmatch(pattern, value) for value in known), (label, pattern)


@every_query
def test_counters_are_rated_and_gauges_are_not(query: Query) -> None:
    for name, _ in series(query.expr):
        metric = _metric(name)
        if metric is not None:
            is_rated = bool(re.search(rf"(rate|increase)\({name}\b", query.expr))
            assert is_rated == (metric.kind == "counter"), name


@every_query
def test_every_query_puts_the_series_of_processes_together(query: Query) -> None:
    assert re.match(r"[\d* ]*\(*(sort|sort_desc|clamp_min|histogram_quantile|count|sum|max|min|avg)\b", query.expr)


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NO promtool: apt-get install prometheus")
    rules = [{"record": f"query:{index}", "expr": query.filled()} for index, query in enumerate(ALL)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", "--lint=none", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_share_of_nothing_is_no_share() -> None:
    assert q.ratio("a", "b") == "(a) / ((b) > 0)"
    assert q.ratio("a", "b", on="") == "(a) / on () group_left () ((b) > 0)"


def test_series_are_narrowed_to_what_is_chosen() -> None:
    assert q.of_screening("up", 'a="b"') == 'up{screening=~"$screening",a="b"}'
    assert q.of_run("x").startswith('ray_x{SessionName=~"$SessionName",ray_io_cluster=~"$Cluster",run=~"$run"')
    assert q.rate("x", "stage") == "sum by (stage) (rate(x[$__rate_interval]))"
    assert q.gain("x") == "sum(increase(x[$__range]))"
