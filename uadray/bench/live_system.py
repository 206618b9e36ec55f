"""A whole system on this machine, each part a process of its own, as an operator starts it.

A Ray head with its dashboard, SeaweedFS, `uadray exporter`, Prometheus and Alertmanager with `deploy/monitoring`, and a
receiver of notifications.

    with live_system(folder, {"archive": "s3://slides/out"}) as system:
        with system.command("screen", ...): ...
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from uadray.bench.command import Command, shortened
from uadray.bench.monitoring_files import write_monitoring
from uadray.bench.processes import descendants, title
from uadray.bench.prometheus import AlertmanagerServer, Notifications, PrometheusServer
from uadray.bench.seaweed import SeaweedServer, free_port, served
from uadray.errors import WorkError

SHORTER_BY, LEAST_WINDOW_S, SCRAPE_S = 60.0, 8.0, 1.0
"""Durations of rules are so many times shorter; a window has several scrapes and several tellings of Ray's."""

TOKEN = "bench"  # noqa: S105 - of an endpoint on this machine alone

UADRAY = (sys.executable, "-c", "import sys; from uadray.cli import main; sys.exit(main())")


@dataclass
class LiveSystem:
    """What runs.

    Attributes:
        folder: for files.
        store: the S3 server.
        head: Ray's head.
        environment: of commands that work on this cluster and this store.
        exporter: `uadray exporter`, and its port.
        prometheus: with the rules of `deploy/monitoring`.
        alertmanager: likewise.
        notifications: what Alertmanager has told.
        notes: what commands said last.
    """

    folder: Path
    store: SeaweedServer
    head: Command
    environment: dict[str, str]
    exporter: Command
    exporter_port: int
    prometheus: PrometheusServer
    alertmanager: AlertmanagerServer
    notifications: Notifications
    notes: list[str] = field(default_factory=list)

    def command(self, *arguments: str, **environment: str) -> Command:
        """A uadray command on this cluster, to be used in a `with` block."""
        return Command([*UADRAY, *arguments], self.environment | environment)

    def processes(self, start: str) -> list[int]:
        """Processes of the cluster whose title begins so."""
        return [pid for pid in descendants(self.head.pid) if title(pid).startswith(start)]


@contextmanager
def live_system(
    folder: Path,
    screenings: Mapping[str, str],
    *,
    exporter_config: Mapping[str, Any] | None = None,
    cpus: int = 4,
    shorter_by: float = SHORTER_BY,
) -> Iterator[LiveSystem]:
    """Start all of it; ended and removed with the `with` block.

    Args:
        folder: for files.
        screenings: folders that the exporter reads, by the name they have in metrics.
        exporter_config: of `uadray exporter --config`.
        cpus: that Ray counts with.
        shorter_by: how many times durations of rules are shorter.

    Raises:
        WorkError: a part does not start.
    """
    port = free_port()
    with ExitStack() as stack:
        store = stack.enter_context(served(folder / "store"))
        environment = _environment()
        head, address, discovery = stack.enter_context(_head(environment, cpus))
        environment |= {"RAY_ADDRESS": address}
        options = [f"--port={port}"]
        if exporter_config is not None:
            (folder / "exporter.yaml").write_text(yaml.safe_dump(dict(exporter_config)))
            options.append(f"--config={folder / 'exporter.yaml'}")
        named = [f"{name}={uri}" for name, uri in screenings.items()]
        exporter = stack.enter_context(Command([*UADRAY, "exporter", *named, *options], environment))
        notifications = stack.enter_context(Notifications())
        prometheus = PrometheusServer(folder / "monitoring" / "prometheus.yml")
        alertmanager = AlertmanagerServer(folder / "monitoring" / "alertmanager.yml")
        write_monitoring(
            folder / "monitoring", prometheus=prometheus.address, alertmanager=alertmanager.address,
            exporter=f"127.0.0.1:{port}", discovery=discovery, notify=notifications.url, scrape_s=SCRAPE_S,
            shorter_by=shorter_by, least_window_s=LEAST_WINDOW_S,
        )  # fmt: skip
        stack.enter_context(alertmanager)
        stack.enter_context(prometheus)
        yield LiveSystem(
            folder, store, head, environment, exporter, port, prometheus, alertmanager, notifications
        )  # fmt: skip


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "UADRAY_TOKEN": TOKEN}


@contextmanager
def _head(environment: dict[str, str], cpus: int) -> Iterator[tuple[Command, str, Path]]:
    """A head, its address, and the file in which it names its nodes for Prometheus."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    port = free_port()
    ports = [f"--port={port}", f"--ray-client-server-port={free_port()}", f"--dashboard-port={free_port()}"]
    # Ray brings its endpoint up to date every 10 s unless told so
    faster = '--system-config={"metrics_report_interval_ms": 1000}'
    options = [f"--num-cpus={cpus}", "--object-store-memory=300000000", "--node-ip-address=127.0.0.1", "--block"]
    ray = str(Path(sys.executable).with_name("ray"))
    discovery = folder / "ray" / "prom_metrics_service_discovery.json"
    try:
        command = [ray, "start", "--head", *ports, *options, faster]
        with Command(command, environment | {"RAY_TMPDIR": str(folder)}) as head:
            deadline = time.monotonic() + 60
            while not discovery.exists() or not json.loads(discovery.read_text())[0]["targets"]:
                if time.monotonic() > deadline or head.wait(0) is not None:
                    raise WorkError(f"Ray's head does not start: {shortened(head.lines)}")
                time.sleep(0.1)
            try:
                yield head, f"127.0.0.1:{port}", discovery
            finally:
                _end_all(head.pid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_all(pid: int) -> None:
    for each in reversed(descendants(pid)):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
