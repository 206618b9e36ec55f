"""Real Prometheus and Alertmanager servers (Debian's packages) on 127.0.0.1, and a receiver of their notifications.

    with PrometheusServer(folder / "prometheus.yml") as prometheus:
        prometheus.query("up")

The configuration may be written after the server object is made, since its port is known from then on.
"""

import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from uadray.bench.seaweed import free_port
from uadray.errors import InputError

PROGRAMS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")
"""As Debian calls them."""


def missing_programs() -> list[str]:
    """Which of `PROGRAMS` this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise InputError(f"{name} is not there: apt-get install prometheus prometheus-alertmanager")
    return path


def _get(url: str, **parameters: str | float) -> Any:
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    try:
        with urllib.request.urlopen(url + query, timeout=30) as answer:  # noqa: S310 - our own server
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url}{query}: {error.read().decode(errors='replace')[:2000]}") from error


@final
class _Process:
    """One server program: started with its own folder for data, waited for, ended."""

    def __init__(self, program: str, ready_url: str) -> None:
        self._program, self._ready_url = _program(program), ready_url
        self._folder = Path(tempfile.mkdtemp(prefix="uadray-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The folder for the server's data."""
        return self._folder / "data"

    def start(self, arguments: Sequence[str], *, seconds: float = 30) -> None:
        with (self._folder / "log.txt").open("ab") as log:
            kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
            self._process = subprocess.Popen([self._program, *arguments], stdout=log, stderr=log, env=kept)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(self._ready_url, timeout=2):  # noqa: S310 - our own server
                    return
            except OSError:
                time.sleep(0.05)
        said = self.log()
        self.stop()
        raise RuntimeError(f"{self._program} does not answer at {self._ready_url}:\n{said}")

    def log(self) -> str:
        """The end of what the server has said."""
        return (self._folder / "log.txt").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@final
class PrometheusServer:
    """A Prometheus with this configuration; a context manager, which ends it and removes its data.

    Args:
        config: its `prometheus.yml`. Paths of rules in it are relative to its folder.

    Attributes:
        address: host:port, as a target of itself.
        url: of that address.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self._process = _Process("prometheus", f"{self.url}/-/ready")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it answers queries.

        Raises:
            RuntimeError: it does not, with the end of its log.
        """
        address, data = f"--web.listen-address={self.address}", f"--storage.tsdb.path={self._process.data}"
        # Alertmanager is known only after 5 s: what fires before that must be sent again
        resend = "--rules.alert.resend-delay=2s"
        self._process.start([f"--config.file={self._config}", address, data, resend, "--web.enable-lifecycle"])

    def stop(self) -> None:
        """End it and remove its data."""
        self._process.stop()

    def reload(self) -> None:
        """Read configuration and rules again."""
        request = urllib.request.Request(f"{self.url}/-/reload", method="POST")  # noqa: S310 - our own server
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310 - our own server
            pass

    def query(self, expression: str, *, at: float | None = None) -> list[dict[str, Any]]:
        """The result of an instant query: for a vector `{"metric": labels, "value": [time, text]}` each.

        Raises:
            RuntimeError: the expression is wrong, with Prometheus' reason.
        """
        data = _get(f"{self.url}/api/v1/query", query=expression, time=time.time() if at is None else at)["data"]
        result = data["result"]
        return result if data["resultType"] == "vector" else [{"metric": {}, "value": result}]

    def query_range(self, expression: str, *, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """The result of a range query: `{"metric": labels, "values": [[time, text], ...]}` each."""
        url = f"{self.url}/api/v1/query_range"
        return list(_get(url, query=expression, start=start, end=end, step=step_s)["data"]["result"])

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing: `labels`, `annotations`, `state`, `activeAt`, `value`."""
        return list(_get(f"{self.url}/api/v1/alerts")["data"]["alerts"])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule as it was last evaluated: `name`, `query`, `type`, `health`, `lastError`, ..."""
        groups = _get(f"{self.url}/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes: `labels`, `scrapeUrl`, `health` (up, down or unknown), `lastError`."""
        return list(_get(f"{self.url}/api/v1/targets", state="active")["data"]["activeTargets"])

    def wait_for(self, expression: str, *, seconds: float) -> list[dict[str, Any]]:
        """The result of a query as soon as it is not empty.

        Raises:
            TimeoutError: it stays empty.
        """
        deadline = time.monotonic() + seconds
        while not (result := self.query(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no data after {seconds:.0f} s: {expression}")
            time.sleep(0.2)
        return result


@final
class AlertmanagerServer:
    """An Alertmanager with this configuration, alone; a context manager.

    Args:
        config: its `alertmanager.yml`.

    Attributes:
        address: host:port, for Prometheus' configuration.
        url: of that address.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self._process = _Process("prometheus-alertmanager", f"{self.url}/-/ready")

    def __enter__(self) -> Self:
        address, data = f"--web.listen-address={self.address}", f"--storage.path={self._process.data}"
        self._process.start([f"--config.file={self._config}", address, data, "--cluster.listen-address="])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts it has: `labels`, `annotations`, `status` with `inhibitedBy`, ..."""
        return list(_get(f"{self.url}/api/v2/alerts"))


@final
class Notifications:
    """A receiver of Alertmanager's webhooks; a context manager.

    Attributes:
        url: for `webhook_configs`.
        received: bodies so far, with the time of arrival as `at` (time.time()).
    """

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        received = self.received

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.append(body | {"at": time.time()})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="uadray-notifications", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def fired(self, *, since: float = 0.0) -> dict[str, float]:
        """When the first notification came of each alert that fires since then or later, by the alert's name."""
        first: dict[str, float] = {}
        for body in list(self.received):
            for alert in body["alerts"]:
                if alert["status"] == "firing" and datetime.fromisoformat(alert["startsAt"]).timestamp() >= since:
                    first.setdefault(alert["labels"]["alertname"], body["at"])
        return first

    def wait_for(self, alert: str, *, seconds: float, since: float = 0.0) -> float:
        """When the first notification of this alert came, as soon as there is one.

        Raises:
            TimeoutError: there is none.
        """
        deadline = time.monotonic() + seconds
        while alert not in (fired := self.fired(since=since)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no notification of {alert} after {seconds:.0f} s; those of: {sorted(fired)}")
            time.sleep(0.1)
        return fired[alert]
