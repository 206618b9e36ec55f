"""Queries of the dashboards: each metric and label exists, in uadray, the exporter or Ray, and promtool parses them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uadray import metrics
from uadray.commands import dashboards
from uadray.monitoring import queries as q

RAY_SERIES = Path(__file__).with_name("ray_series.txt")

OF_PROMETHEUS = {"ALERTS": {"alertname", "alertstate", "severity", "screening"}}

WORDS = {"by", "on", "group_left", "or", "bool", "inf"}


def _ray_series() -> dict[str, set[str]]:
    lines = [line.removeprefix("! ").split() for line in RAY_SERIES.read_text().splitlines() if line[0] != "#"]
    every = next(set(labels) for name, *labels in lines if name == "*")
    return {name: {*labels, *every} for name, *labels in lines}


def _of_uadray() -> dict[str, set[str]]:
    common = {"run", "SessionName", "ray_io_cluster"}
    return {f"ray_{name}": {*metric.labels, *common} for name, metric in metrics.METRICS.items()}


_SCREENING, _BUNDLE = {"screening"}, {"screening", "bundle"}
_GROUP = {*_BUNDLE, "site", "scanner"}

OF_THE_EXPORTER = {
    "uadray_ledger_up": _SCREENING, "uadray_ledger_read_seconds": set(), "uadray_ledger_read_timestamp_seconds": set(),
    "uadray_ledger_slides": {*_BUNDLE, "state", "reason"}, "uadray_ledger_decisions": {*_BUNDLE, "decision"},
    "uadray_ledger_decided_total": _SCREENING, "uadray_ledger_backlog_slides": _SCREENING,
    "uadray_ledger_oldest_open_seconds": _SCREENING, "uadray_ledger_decisions_per_second": _SCREENING,
    "uadray_ledger_seconds_left": _SCREENING, "uadray_ledger_drivers": {"screening", "state"},
    "uadray_ledger_driver_lag_seconds": _SCREENING, "uadray_ledger_stage_seconds": {"screening", "stage"},
    "uadray_ledger_p_value_bucket": {*_GROUP, "le"}, "uadray_ledger_p_value_count": _GROUP,
    "uadray_ledger_alpha": _BUNDLE, "uadray_calibration_age_seconds": _BUNDLE, "uadray_calibration_slides": _BUNDLE,
    "uadray_calibration_holds": _GROUP, "uadray_drift_evidence": {*_GROUP, "measure"}, "uadray_drift_limit": _BUNDLE,
    "uadray_drift_detected": _GROUP, "uadray_drift_slides": _GROUP, "uadray_cost": {"screening", "currency"},
    "uadray_cost_per_slide": {"screening", "currency"}, "uadray_budget": {"screening", "currency"},
    "uadray_ledger_run_info": {*_BUNDLE, "fingerprint", "bundle_id", "calibration_id", "detector", "version"},
    "uadray_ledger_jobs": {"screening", "state"},
}  # fmt: skip

KNOWN = _ray_series() | _of_uadray() | OF_PROMETHEUS | OF_THE_EXPORTER
"""Every series that a dashboard may ask for, and its labels."""


def _targets() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, text in dashboards.texts().items():
        for panel in json.loads(text)["panels"]:
            for target in panel.get("targets", ()):
                yield name, panel["title"], target


def _variables() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, text in dashboards.texts().items():
        for variable in json.loads(text)["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
                yield name, variable["name"], {"expr": f"sum by ({label}) ({series})", "legendFormat": ""}


ALL = [*_targets(), *_variables()]


def _plain(expr: str) -> str:
    """With the values that Grafana puts in for its variables."""
    built = {"__rate_interval": "1m", "__range": "1h"}
    return re.sub(r"\$(\w+)", lambda found: built.get(found[1], ".*"), expr)


def _series(expr: str) -> list[tuple[str, dict[str, str]]]:
    """Names in a query, and what their labels are compared with."""
    without = re.sub(r"(by|on) \([^)]*\)", "", expr)
    found = re.findall(r"\b((?:ray_)?uadray_\w+|ray_\w+|ALERTS)\b(?!\s*\()(?:\{([^}]*)\})?", without)
    return [
        (name, dict(re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', matchers)))
        for name, matchers in found
        if name != "ray_io_cluster"
    ]


def test_there_is_much_to_test() -> None:
    assert len(ALL) > 120
    assert len({name for *_, target in ALL for name, _ in _series(target["expr"])}) > 60


@pytest.mark.parametrize(("board", "title", "target"), ALL, ids=[f"{board}: {title}" for board, title, _ in ALL])
def test_each_name_and_label_exists(board: str, title: str, target: dict[str, Any]) -> None:
    series = _series(target["expr"])
    assert series
    for name, matchers in series:
        assert name in KNOWN
        assert matchers.keys() <= KNOWN[name], name
    labels = set().union(*(KNOWN[name] for name, _ in series)) | {"le"}
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")}
    assert grouped <= labels
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped, "a legend names a label that is gone"


def test_each_value_that_a_label_is_compared_with_is_known() -> None:
    unknown = []
    for board, title, target in ALL:
        for name, matchers in _series(target["expr"]):
            metric = metrics.METRICS.get(name.removeprefix("ray_"))
            for label, value in matchers.items():
                known = metric.labels.get(label) if metric else None
                if known and not any(re.fullmatch(value, one) for one in known):
                    unknown.append((board, title, label, value))
    assert unknown == []


def test_counters_are_rated_and_gauges_are_not() -> None:
    for board, title, target in ALL:
        for name, _ in _series(target["expr"]):
            metric = metrics.METRICS.get(name.removeprefix("ray_"))
            if metric is not None and title not in {"run"}:
                is_rated = bool(re.search(rf"(rate|increase)\({name}\b", target["expr"]))
                assert is_rated == (metric.kind == "counter"), (board, title, name)


def test_every_query_puts_series_together() -> None:
    for board, title, target in ALL:
        assert re.match(
            r"[\d* ]*\(*(sort_desc|sort|clamp_min|histogram_quantile|count|sum|max|min|avg)\b", target["expr"]
        ), (board, title)


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NO promtool: apt-get install prometheus")
    rules = [{"record": f"query:{index}", "expr": _plain(target["expr"])} for index, (*_, target) in enumerate(ALL)]
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
