"""Prometheus beside the head of a cluster of `uadray.bench.ray_nodes`: what it is told, and what it has kept.

Targets come from Ray's own service discovery, as in deploy/monitoring, and from `uadray exporter` on the same host.
"""

import json
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

PROMETHEUS_PORT, EXPORTER_PORT = 9090, 9464

EVERY_S = 5
"""Between two looks of Prometheus: the most that a benchmark of a few minutes can show."""


class Scraping:
    """A running Prometheus.

    Attributes:
        url: where it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that answer a query now; none while it does not answer."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with suppress(OSError, ValueError), urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - ours
            return list(json.load(answer)["data"]["result"])
        return []

    def number(self, query: str) -> float | None:
        """The one value that answers a query now."""
        series = self.ask(query)
        return float(series[0]["value"][1]) if series else None


def what_is_scraped(discovery: Path, exporter: str) -> dict[str, Any]:
    """The configuration of Prometheus.

    Args:
        discovery: the file in which Ray keeps the list of its nodes' metrics.
        exporter: `host:port` of the exporter.
    """
    own = {"job_name": "uadray-exporter", "static_configs": [{"targets": [exporter]}]}
    ray = {"job_name": "ray", "file_sd_configs": [{"files": [str(discovery)], "refresh_interval": f"{EVERY_S}s"}]}
    return {"global": {"scrape_interval": f"{EVERY_S}s", "scrape_timeout": f"{EVERY_S}s"}, "scrape_configs": [ray, own]}


@contextmanager
def scraped(
    folder: Path, *, inside: Sequence[str], address: str, discovery: Path, out_uri: str, environment: dict[str, str]
) -> Iterator[Scraping | None]:
    """Prometheus and the exporter for a `with` block; None where Prometheus is not installed.

    Args:
        folder: for Prometheus' data and both logs; stays.
        inside: the words to put before a command so that it runs beside the head.
        address: of that host.
        discovery: the file in which Ray keeps the list of its nodes' metrics.
        out_uri: the screening that the exporter reads.
        environment: variables of both.
    """
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    config, exporter = folder / "prometheus.yml", f"{address}:{EXPORTER_PORT}"
    config.write_text(yaml.safe_dump(what_is_scraped(discovery, exporter)), encoding="utf-8")
    listen = f"--web.listen-address={address}:{PROMETHEUS_PORT}"
    server = [prometheus, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", listen]
    uadray = str(Path(sys.executable).with_name("uadray"))
    (folder / "exporter.yaml").write_text(f"refresh_s: {EVERY_S}\n", encoding="utf-8")
    export = [uadray, "exporter", f"partition={out_uri}", f"--config={folder / 'exporter.yaml'}"]
    export += [f"--host={address}", f"--port={EXPORTER_PORT}"]
    running = [
        _started([*inside, *command], environment, folder / f"{name}.log")
        for name, command in (("prometheus", server), ("exporter", export))
    ]
    try:
        yield Scraping(f"http://{address}:{PROMETHEUS_PORT}")
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)  # Prometheus writes what it has in memory
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _started(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
