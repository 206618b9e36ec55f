"""`bench alerts`: each alert of `deploy/monitoring` is made to fire by a real failure, and reaches a receiver.

A whole system runs (see `live_system`): a screening that follows a folder in SeaweedFS, and an endpoint. What goes
wrong is real: processes are killed or stopped, the store is killed, its keys are changed, files are damaged, another
stain comes in. The rules are those of `deploy/monitoring` with durations 60 times shorter, see `monitoring_files`. An
alert counts when Alertmanager has it after its failure began, and Prometheus had not before. What a graver alert
inhibits is at Alertmanager, and nobody is told of it.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from uadray.bench import alert_material
from uadray.bench.alert_material import Archive
from uadray.bench.endpoint import Endpoint, deployment
from uadray.bench.http_load import Load, send_apart
from uadray.bench.live_system import LiveSystem, live_system
from uadray.bench.monitoring_files import monitoring_folder
from uadray.bench.seaweed import free_port
from uadray.bench.serve_material import npz_request, tiles
from uadray.errors import InputError, WorkError
from uadray.metrics import HOLD_S
from uadray.reports.pictures import encode_png

GOALS = {"missed": 0, "early": 0}
"""The most alerts that were staged and did not fire, and that fired before their failure."""

NOT_STAGED = {
    "UadrayDeviceFault": "needs a GPU that breaks",
    "UadrayLedgerStale": "its threshold is a quarter of an hour, and thresholds are not changed",
    "UadrayCacheThrash": "painted slides are read by ranges, and need no copy on a disk",
    "UadrayCostWillExceedBudget": "a forecast, which nobody is told of",
}
"""Alerts that are not made to fire here, with the reason. promtool's unit tests have each of them."""


TILE_PX = 128


@dataclass
class Stage:
    """Where failures are staged.

    Attributes:
        system: what runs.
        archive: its slides and bundle.
        fired_s: seconds from the beginning of a failure to the moment when Alertmanager has it, by alert.
        early: alerts that had fired before their failure.
        staged: every alert whose failure was staged.
    """

    system: LiveSystem
    archive: Archive
    fired_s: dict[str, float] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)
    staged: list[str] = field(default_factory=list)

    @contextmanager
    def failing(self, *alerts: str, seconds: float = 60.0) -> Iterator[None]:
        """Stage a failure inside; at the end of the block wait until Alertmanager has these alerts."""
        firing = {each["labels"]["alertname"] for each in self.system.prometheus.alerts() if each["state"] == "firing"}
        self.staged += alerts
        self.early += [alert for alert in alerts if alert in firing]
        began = time.time()
        yield
        while (missing := set(alerts) - self.fired_s.keys()) and time.time() < began + seconds:
            there = {each["labels"]["alertname"] for each in self.system.alertmanager.alerts()}
            self.fired_s |= {alert: round(time.time() - began, 1) for alert in missing & there - firing}
            time.sleep(0.2)

    def wait(self, expression: str, *, seconds: float = 60.0) -> None:
        """Until a query has a result."""
        self.system.prometheus.wait_for(expression, seconds=seconds)

    def wait_counting(self) -> None:
        """Until a driver that has just started counts: it tells 0 for 20 s first."""
        self.wait('uadray_ledger_drivers{state="alive"} == 1')
        time.sleep(HOLD_S + 5)
        self.wait('sum by (run) (ray_uadray_slides_total{state="scored"}) > 0')


def screening(stage: Stage) -> None:
    """One driver, at which one thing after the other goes wrong, until it is killed."""
    with stage.archive.screening(stage.system) as driver:
        old_and_dear(stage)
        damage(stage)
        other_stain(stage)
        backlog(stage)
        standstill(stage)
        crashes(stage)
        second_driver(stage)
        with stage.failing("UadrayDriverDead"):
            os.kill(driver.pid, signal.SIGKILL)


def backlog(stage: Stage) -> None:
    """More slides come in than one scorer decides."""
    with arriving(stage), stage.failing("UadrayBacklogGrows", seconds=150):
        pass


@contextmanager
def arriving(stage: Stage, per_s: float = 5.0) -> Iterator[None]:
    """Large slides come in, more a second than one scorer decides, for a `with` block."""
    ended = threading.Event()

    def arrive() -> None:
        while not ended.wait(1 / per_s):
            stage.archive.put_large(1)

    thread = threading.Thread(target=arrive, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def standstill(stage: Stage) -> None:
    """The scorer hangs: its process is stopped while the driver lives."""
    pids = stage.system.processes("ray::WatchedScorer")
    with stage.failing("UadrayNoProgress"):
        _signal(pids, signal.SIGSTOP)
    _signal(pids, signal.SIGCONT)


def crashes(stage: Stage) -> None:
    """Readers are killed again and again, as by a kernel that is out of memory."""
    with stage.failing("UadrayNodeFault"):
        for _ in range(8):
            _signal(stage.system.processes("ray::Read")[:1], signal.SIGKILL)
            time.sleep(1)


def damage(stage: Stage) -> None:
    """Two of five slides are damaged files."""
    stage.wait_counting()
    with stage.failing("UadrayFailuresHigh", seconds=90):
        stage.archive.put(40, damaged=True)
        stage.archive.put(60)


def second_driver(stage: Stage) -> None:
    """A second driver joins, and is killed."""
    with stage.archive.screening(stage.system) as second:
        stage.wait('uadray_ledger_drivers{state="alive"} == 2', seconds=90)
        with stage.failing("UadrayDriverLost"):
            os.kill(second.pid, signal.SIGKILL)


def other_stain(stage: Stage) -> None:
    """Slides of another stain come in; all of them score higher than the calibration's."""
    with stage.failing("UadrayDrift", "UadrayCalibrationNotHolding", seconds=120):
        stage.archive.put(60, other_stain=True)


def old_and_dear(stage: Stage) -> None:
    """The calibration is of long ago, and the screening has cost more than its budget."""
    with stage.failing("UadrayCostAboveBudget", "UadrayCalibrationStale", seconds=90):
        stage.archive.put(20)


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def stopped(stage: Stage) -> None:
    """The driver is stopped in order, with slides left."""
    stage.archive.put_large(120)
    with stage.archive.screening(stage.system) as driver:
        stage.wait("uadray_ledger_backlog_slides > 0", seconds=90)
        with stage.failing("UadrayScreeningUnfinished"):
            os.kill(driver.pid, signal.SIGTERM)


def store_away(stage: Stage) -> None:
    """The store is killed, and is back after the alerts."""
    stage.archive.put_large(120)
    with stage.archive.screening(stage.system):
        stage.wait_counting()
        with stage.failing("UadrayStoreAway", "UadrayLedgerUnreadable", seconds=150):
            stage.system.store.kill()
        stage.system.store.start()


def refused(stage: Stage) -> None:
    """The store's keys are changed under a screening, and changed back."""
    stage.archive.put_large(120)
    with stage.archive.screening(stage.system):
        stage.wait_counting()
        keys, store = stage.system.store.env["AWS_SECRET_ACCESS_KEY"], stage.system.store
        with stage.failing("UadrayCredentialsRefused", seconds=150):
            store.kill()
            store.env["AWS_SECRET_ACCESS_KEY"] = "another" + keys
            store.start()
        store.kill()
        store.env["AWS_SECRET_ACCESS_KEY"] = keys
        store.start()


def endpoint(stage: Stage) -> None:
    """A queue that is too short for its callers; then the store is away for the endpoint."""
    with running_endpoint(stage) as served:
        request = npz_request(tiles(64, TILE_PX))
        with stage.failing("UadrayEndpointQueueFull", seconds=60):
            send_apart(served.port, request, Load(seconds=20, clients=24))
        burn = ("UadrayEndpointErrorBudgetBurnFast", "UadrayEndpointErrorBudgetBurnSlow")
        with stage.failing(*burn, seconds=90):
            stage.system.store.kill()
            until = time.time() + 40
            while time.time() < until:
                served.ask("/v1/slides", timeout_s=10)
                time.sleep(0.2)
        stage.system.store.start()


@contextmanager
def running_endpoint(stage: Stage) -> Iterator[Endpoint]:
    """`uadray serve` on the cluster."""
    port, root = free_port(), f"s3://{stage.system.store.bucket}"
    arguments = {
        "out": f"{root}/jobs", "bundles": {"tiny": stage.archive.bundle}, "slides": [f"{root}/in/"],
        "max_queued_requests": 1, "detector": {"cpus": 0}, "view": {"replicas": 0, "max_replicas": 1, "cpus": 0},
    }  # fmt: skip
    path = stage.system.folder / "endpoint.yaml"
    path.write_text(yaml.safe_dump(deployment(port, arguments)))
    with stage.system.command("serve", str(path)) as command:
        found = Endpoint(port)
        until = time.time() + 120
        while found.ask("/readyz", timeout_s=5).status != 200:
            if time.time() > until or command.wait(0) is not None:
                raise WorkError(f"the bench's own endpoint does not start: {command.lines[-5:]}")
            time.sleep(0.5)
        yield found
        os.kill(command.pid, signal.SIGTERM)
        command.wait(30)


def training(stage: Stage) -> None:
    """The worker of a training hangs: its process is stopped while the training lives."""
    data, root = stage.system.folder / "tiles", stage.system.folder
    data.mkdir()
    for seed in range(64):
        (data / f"{seed:02}.png").write_bytes(encode_png(tiles(1, 32, seed=seed)[0]))
    config = {
        "name": "stalls", "detector": {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8},
        "tiles": {"mpp": 1.0, "tile_px": 32}, "train_min_tissue": 0.0, "epochs": 1000, "steps_per_epoch": 50,
    }  # fmt: skip
    (root / "train.yaml").write_text(yaml.safe_dump(config))
    arguments = ["train", str(root / "train.yaml"), "--data", str(data), "--out", str(root / "trained")]
    with stage.system.command(*arguments):
        stage.wait("changes(ray_uadray_train_step[10s]) > 0", seconds=120)
        workers = stage.system.processes("ray::RayTrainWorker")
        with stage.failing("UadrayTrainingStalled", seconds=90):
            _signal(workers, signal.SIGSTOP)
        _signal(workers, signal.SIGKILL)


def exporter_killed(stage: Stage) -> None:
    """`uadray exporter` is killed."""
    with stage.failing("UadrayExporterDown"):
        os.kill(stage.system.exporter.pid, signal.SIGKILL)


def head_killed(stage: Stage) -> None:
    """Ray's head node is killed, and its file of nodes stays behind."""
    with stage.failing("UadrayTargetDown"):
        os.killpg(stage.system.head.pid, signal.SIGKILL)


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    "stopped": stopped, "screening": screening, "store": store_away, "refused": refused, "training": training,
    "endpoint": endpoint, "exporter": exporter_killed, "head": head_killed,
}  # fmt: skip
"""In the order in which they run: what is broken for good comes last."""


def run(*, only: Sequence[str] = ()) -> dict[str, Any]:
    """Stage failures; prints nothing. Takes some ten minutes.

    Args:
        only: names of `SCENARIOS`; all unless given.

    Raises:
        InputError: there is no such scenario.
    """
    unknown = set(only) - set(SCENARIOS)
    if unknown:
        raise InputError(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(SCENARIOS)}")
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        root = "s3://slides"
        config = {
            "refresh_s": 1, "calibrations": {"tiny": f"{root}/bundle"}, "prices": {"cpu_hour": 10_000.0},
            "budgets": {"archive": 0.5},
        }  # fmt: skip
        with live_system(Path(name), {"archive": f"{root}/out"}, exporter_config=config) as system:
            stage = Stage(system, alert_material.made(Path(name), root))
            errors = {each: error for each in only or SCENARIOS if (error := _staged(stage, each))}
    return _report(stage, errors, complete=not only)


def _staged(stage: Stage, name: str) -> str | None:
    try:
        SCENARIOS[name](stage)
    except (WorkError, TimeoutError, OSError) as error:
        return str(error)[:500]
    return None


def _report(stage: Stage, errors: dict[str, str], *, complete: bool) -> dict[str, Any]:
    groups = yaml.safe_load((monitoring_folder() / "rules" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    fired = stage.fired_s
    expected = [each for each in alerts if each not in NOT_STAGED] if complete else list(stage.staged)
    missed = [alert for alert in expected if alert not in fired]
    return {
        "alerts": len(alerts), "fired": len(fired), "fired_s": fired, "missed": missed, "early": stage.early,
        "not_staged": NOT_STAGED, "errors": errors, "goals": GOALS,
        "goals_met": not errors and len(missed) <= GOALS["missed"] and len(stage.early) <= GOALS["early"],
    }  # fmt: skip
