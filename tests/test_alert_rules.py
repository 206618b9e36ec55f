"""`deploy/monitoring`: what promtool and amtool say of it, and what they do not look at."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from house import ROOT
from prometheus_server import needs_prometheus

from uadray import metrics
from uadray.bench.alerts import NOT_STAGED
from uadray.bench.monitoring_files import seconds, shortened, without_durations
from uadray.monitoring.exported import EXPORTED

FOLDER = ROOT / "deploy" / "monitoring"
RUNBOOKS = ROOT / "deploy" / "runbooks"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))
RULES = [rule for path in RULE_FILES for g in yaml.safe_load(path.read_text())["groups"] for rule in g["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
UNIT_TESTS = [t for path in (FOLDER / "tests").glob("*.yml") for t in yaml.safe_load(path.read_text())["tests"]]

OF_RAY = {"ray_serve_num_http_requests_total", "ray_serve_num_http_error_requests_total"}
"""Seen in a scrape of Ray 2.60; the test of the live system asks for them."""

OF_EXPORTER = {name + "_total" * (meant.kind == "counter") for name, meant in EXPORTED.items()}

WORDS = (
    *("and", "or", "unless", "on", "by", "group_left", "ignoring", "offset"),
    *("sum", "max", "rate", "increase", "deriv", "changes", "absent", "time", "min_over_time"),
)
"""Operators and functions of PromQL."""


def called(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metric_names(expression: str) -> set[str]:
    """What is left of an expression without selectors, windows, label lists, numbers, operators and functions."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(on|by|group_left|ignoring) \([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w.])[a-z_][\w:]*", bare)) - set(WORDS)


@needs_prometheus
def test_promtool_and_amtool_accept_it() -> None:
    assert "2 rule files found" in called("promtool", "check", "config", "prometheus.yml")
    assert f"{len(ALERTS)} rules found" in called("promtool", "check", "rules", "rules/alerts.yml")
    assert "3 receivers" in called("amtool", "check-config", "alertmanager.yml")


@needs_prometheus
@pytest.mark.parametrize("path", sorted((FOLDER / "tests").glob("*.yml")), ids=lambda path: path.stem)
def test_unit_tests_of_alerts(path: Path) -> None:
    assert "SUCCESS" in called("promtool", "test", "rules", path)


@needs_prometheus
@pytest.mark.parametrize(
    ("group", "text", "instead"),
    [
        ("endpoint", "> 14.4 * 0.005", "> 0"), ("screening", "for: 15m", "for: 3h"), ("system", ">= 1", ">= 9"),
        ("calibration", "== 1", "== 2"), ("training", "offset 15m", ""), ("ledger", "== 0", "== 1"),
    ],
)  # fmt: skip
def test_unit_tests_notice_another_rule(tmp_path: Path, group: str, text: str, instead: str) -> None:
    for path in [*RULE_FILES, FOLDER / "tests" / f"{group}.yml"]:
        copy = tmp_path / path.relative_to(FOLDER)
        copy.parent.mkdir(exist_ok=True)
        was = path.read_text()
        copy.write_text(was.replace(text, instead) if path in RULE_FILES else was)
    command = ["promtool", "test", "rules", tmp_path / "tests" / f"{group}.yml"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_seen_to_fire_and_to_be_silent(name: str) -> None:
    cases = [case for test in UNIT_TESTS for case in test["alert_rule_test"] if case["alertname"] == name]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_written_as_mixins_are(name: str) -> None:
    alert, scrape_s = ALERTS[name], seconds(config()["global"]["scrape_interval"])
    assert re.fullmatch(r"Uadray([A-Z][a-z]+)+", name)
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "{{" not in alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"] == f"deploy/runbooks/{name}.md"
    assert seconds(alert["for"]) >= 2 * scrape_s
    assert all(seconds(each) >= 4 * scrape_s for each in re.findall(r"\[(\w+)\]", alert["expr"]))


def test_every_metric_is_one_of_ours_or_of_rays() -> None:
    known = {f"ray_{name}" for name in metrics.METRICS} | OF_EXPORTER | OF_RAY | RECORDED | {"up"}
    used = {name for rule in RULES for name in metric_names(rule["expr"])}
    assert used - known == set()
    assert used >= OF_RAY | RECORDED


def test_labels_and_their_values_are_those_of_the_metrics() -> None:
    """A selector of `uadray.metrics` names labels and values that are there."""
    seen = 0
    for rule in RULES:
        for name, selector in re.findall(r"ray_(uadray_\w+)\{([^}]*)\}", rule["expr"]):
            for label, value in re.findall(r'(\w+)="([^"]*)"', selector):
                assert value in metrics.METRICS[name].labels[label]
                seen += 1
    causes = re.findall(r'cause=~?"([^"]*)"', " ".join(rule["expr"] for rule in RULES))
    assert {cause for each in causes for cause in each.split("|")} == set(metrics.CAUSES)
    assert seen == 3


def test_secrets_are_files() -> None:
    text = (FOLDER / "alertmanager.yml").read_text()
    assert "routing_key_file: /etc/alertmanager/secrets/" in text
    assert re.findall(r"(?:routing_key|api_url|password|token|secret): ", text) == []
    assert set(re.findall(r"Uadray\w+", text)) <= set(ALERTS)


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}
    index = pages.pop("README")
    assert pages.keys() == ALERTS.keys()
    assert set(re.findall(r"\((Uadray\w+)\.md\)", index)) == ALERTS.keys()
    for name, page in pages.items():
        assert re.match(rf"# {name}\n\n.+?\n\n## Look\n\n- .+\n\n## Do\n\n1\. .+", page, re.S)
        assert set(re.findall(r"\((Uadray\w+)\.md\)", page)) <= ALERTS.keys()


def test_commands_in_runbooks_are_there() -> None:
    from typer.main import get_command

    from uadray.cli import app

    text = " ".join(path.read_text() for path in RUNBOOKS.glob("*.md"))
    commands: Any = get_command(app)
    named = set(re.findall(r"`uadray ([a-z]+)", text))
    assert named - set(commands.commands) == set()
    options = {option for command in commands.commands.values() for p in command.params for option in p.opts}
    ours = [line for line in re.findall(r"`uadray [^`]*`", text) if "--" in line]
    assert {option for line in ours for option in re.findall(r"--[a-z-]+", line)} - options == set()


def test_each_alert_is_staged_in_the_bench_or_it_is_said_why_not() -> None:
    staged = set(re.findall(r'"(Uadray\w+)"', (ROOT / "uadray" / "bench" / "alerts.py").read_text()))
    assert staged == ALERTS.keys()
    assert NOT_STAGED.keys() < staged


def test_shorter_rules_differ_in_durations_alone() -> None:
    for path in RULE_FILES:
        text = path.read_text()
        short = shortened(text, by=60, least_window_s=4)
        assert short != text
        assert without_durations(short) == without_durations(text)
        assert "900" in short or path.stem != "alerts"  # a threshold is no duration


def config() -> Any:
    return yaml.safe_load((FOLDER / "prometheus.yml").read_text())
