"""The real servers that tests and benchmarks start."""

from pathlib import Path

import pytest
import yaml
from prometheus_server import AlertmanagerServer, Notifications, PrometheusServer, needs_prometheus

pytestmark = needs_prometheus


def test_an_alert_goes_from_a_rule_to_its_receiver(tmp_path: Path) -> None:
    """A rule that always holds; each address is one that the servers have chosen."""
    always = {"alert": "Always", "expr": "vector(1)", "labels": {"severity": "info"}}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [always]}]}))
    route = {"receiver": "here", "group_by": ["alertname"], "group_wait": "0s"}
    prometheus = PrometheusServer(tmp_path / "prometheus.yml")
    with Notifications() as notifications:
        receiver = {"name": "here", "webhook_configs": [{"url": notifications.url}]}
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
        with AlertmanagerServer(tmp_path / "alertmanager.yml") as alertmanager:
            config = {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": ["rules.yml"],
                "scrape_configs": [{"job_name": "self", "static_configs": [{"targets": [prometheus.address]}]}],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]},
            }
            (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
            with prometheus:
                up = prometheus.wait_for("up == 1", seconds=10)
                at = notifications.wait_for("Always", seconds=15)
                assert [alert["labels"]["alertname"] for alert in alertmanager.alerts()] == ["Always"]
                assert prometheus.query_range("up", start=at - 1, end=at + 1, step_s=1)
                assert [target["health"] for target in prometheus.targets()] == ["up"]
                assert [rule["health"] for rule in prometheus.rules()] == ["ok"]
                assert [alert["state"] for alert in prometheus.alerts()] == ["firing"]
                with pytest.raises(RuntimeError, match="parse error"):
                    prometheus.query("sum(")
    assert up[0]["metric"]["job"] == "self"


def test_a_configuration_that_is_wrong_ends_with_the_servers_own_words(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text("scrape: nothing\n")
    with pytest.raises(RuntimeError, match="field scrape not found"):
        PrometheusServer(tmp_path / "prometheus.yml").start()
