"""Every query of every dashboard, asked of a Prometheus that scrapes a live screening, endpoint and training."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_line
import endpoint_parts
import numpy as np
import pytest
import ray
import requests
from dashboard_queries import Query, of_panels, of_variables
from prometheus_server import PrometheusServer, needs_prometheus
from seaweed import free_port
from serving_client import encode

from uadray.bench import dashboard_pictures
from uadray.bench.slides import TINY, upload_copies, write_slide, write_tiny_bundle
from uadray.cluster.workers import StreamConfig
from uadray.config import parse_config
from uadray.decisions.conformal import NormalSlide
from uadray.networks.bundle_description import CALIBRATION
from uadray.provenance import now_iso
from uadray.screening.bundles import ScreeningBundle, read_calibration
from uadray.screening.job import ScreenConfig, screen
from uadray.serving import server
from uadray.serving.deployment_file import DeploymentFile
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.training.board import Tally
from uadray.training.config import TrainConfig
from uadray.training.loop import Line
from uadray.training.progress_metrics import TrainingMetrics

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

pytestmark = [
    pytest.mark.ray, pytest.mark.slow, needs_prometheus, pytest.mark.timeout(400),
    pytest.mark.filterwarnings("default"),  # of Ray, about itself
]  # fmt: skip

EMPTY = {
    ("archive", "Alerts that fire"): "no rules are loaded here",
    ("slowness", "GPUs at work"): "there is no GPU",
    ("training", "GPUs at work"): "there is no GPU",
    ("slowness", "Copies on local disks"): "the slides lie in a folder: nothing is copied",
    ("archive", "Slides given back an hour"): "by cause: the system has not failed",
    ("slowness", "Retries an hour, by cause"): "by cause: the system has not failed",
    ("archive", "Lag of drivers"): "the driver has ended",
    ("archive", "Time left"): "all is decided",
    ("archive", "Time left and age of the oldest"): "all is decided",
    ("archive", "Oldest open slide"): "all is decided",
    ("calibration", "Groups it does not hold for"): "too few slides to tell",
    ("calibration", "Sites and scanners"): "whether the calibration holds: too few slides to tell",
}
"""Panels with a query that may have no answer here, and why."""

ROWS = 120
"""So many take longer than counters are held at 0 (`metrics.HOLD_S`): a shorter run has no rates."""


@contextlib.contextmanager
def _prometheus(folder: Path, targets: list[str]) -> Iterator[PrometheusServer]:
    config = folder / "prometheus.yml"
    jobs = ", ".join(f"'{target}'" for target in targets)
    config.write_text(
        "global: {scrape_interval: 2s}\nscrape_configs:\n"
        f"  - job_name: test\n    static_configs: [{{targets: [{jobs}]}}]\n"
    )
    with PrometheusServer(config) as prometheus:
        yield prometheus


@contextlib.contextmanager
def _exporter(folder: Path, port: int, *outs: str) -> Iterator[None]:
    prices = folder / "exporter.yaml"
    prices.write_text("refresh_s: 2\nprices: {currency: EUR, cpu_hour: 0.05}\nbudgets: {spring: 10}\n")
    process = command_line.start("exporter", *outs, "--config", str(prices), "--port", str(port))
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _screen(folder: Path, out: Path) -> dict[str, Any]:
    """A folder of slides, one of which is none."""
    slides = upload_copies(write_slide(folder / "slide.tif", repeats=4, phantom_px=512), str(folder / "slides"), ROWS)
    (folder / "slides" / "broken.tif").write_bytes(b"no slide")
    rows = [*slides, SlideRow("broken", str(folder / "slides" / "broken.tif"))]
    config = ScreenConfig(stream=StreamConfig(score_workers=1, threads=1))
    return screen(rows, bundles=[_calibrated(str(folder / "bundle"))], out=str(out), config=config)


def _calibrated(uri: str) -> ScreeningBundle:
    """A bundle whose calibration was made now, and knows what its slides looked like."""
    bundle = write_tiny_bundle(uri)
    looks = ("tile_score_median", "saturation", "green", "focus", "tissue_share")
    normals = tuple(NormalSlide.model_validate(dict.fromkeys(looks, 0.05 * index)) for index in range(19))
    calibration = read_calibration(uri, bundle).model_copy(update={"made": now_iso(), "normals": normals})
    objects.write_bytes(objects.join(uri, CALIBRATION), calibration.model_dump_json().encode())
    return ScreeningBundle(uri, bundle, calibration)


@contextlib.contextmanager
def _endpoint(folder: Path, out: Path) -> Iterator[str]:
    from ray import serve

    args = {
        "out": str(out), "bundles": {"main": endpoint_parts.write_calibrated(folder)}, "slides": [str(folder)],
        "slide": {"replicas": 0, "max_replicas": 1, "cpus": 0}, "one_replica": False, "insecure": True,
        **{name: {"cpus": 0.1} for name in ("encoder", "generator", "scorer")},
    }  # fmt: skip
    values = {
        "http_options": {"host": "127.0.0.1", "port": free_port()},
        "applications": [
            {"args": args, "autoscaling_policy": {"policy_function": "uadray.serving.scaling:follow_slides"}}
        ],
    }  # fmt: skip
    file = parse_config(DeploymentFile, values, source="test")
    server.start(file)
    try:
        yield file.url
    finally:
        serve.shutdown()


def _ask(url: str, slide: Path, end: threading.Event) -> None:
    """Tiles again and again, a slide, and something that is not there."""
    tiles = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), dtype=np.uint8)
    body = {"tiles": [{"id": str(index), "image": encode(tile)} for index, tile in enumerate(tiles)]}
    requests.post(f"{url}/v1/slides", json={"uri": str(slide), "mpp": 1.0}, timeout=60)
    while not end.wait(0.5):
        requests.post(f"{url}/v1/tiles/score", json=body, timeout=60)
        requests.get(f"{url}/v1/nothing", timeout=60)


@ray.remote(num_cpus=0)
class Trains:
    """Counts as the driver of a training does, step by step."""

    def run(self, seconds: float) -> None:
        config = parse_config(TrainConfig, {"name": "live", **TINY}, source="test")
        told, start = TrainingMetrics(config, "train-00000000", cores=(1.0, 0.0)), time.monotonic()
        step = 0
        while time.monotonic() - start < seconds:
            step += 1
            tally = Tally(tiles=32, seconds=0.5, waited_s=0.1, losses={"critic": (1.0 / step, 1)})
            told.tell([Line({"step": step, "fid": 100.0 / step})], tally)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def live(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A Prometheus that has seen all of it for a minute."""
    folder = tmp_path_factory.mktemp("live")
    port, end = free_port(), threading.Event()
    targets = [f"127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}", f"127.0.0.1:{port}"]
    spring, jobs = folder / "spring", folder / "jobs"
    spring.mkdir()
    outs = [f"spring={spring}", f"jobs={jobs}"]
    with _prometheus(folder, targets) as prometheus, _exporter(folder, port, *outs), _endpoint(folder, jobs) as url:
        training = Trains.remote().run.remote(300)
        summary = _screen(folder, spring)
        assert (summary["scored"], summary["failed"]) == (ROWS, 1)
        asking = threading.Thread(target=_ask, args=(url, folder / "slides" / "s0000.tif", end))
        asking.start()
        for name in ("tiles_total{stage='screen_score'}", "tiles_total{stage='serve_score'}", "train_step"):
            prometheus.wait_for(f"ray_uadray_{name} > 0", seconds=60)
        prometheus.wait_for("uadray_ledger_decided_total > 0", seconds=60)
        prometheus.wait_for("ray_serve_health_check_latency_ms_bucket", seconds=60)
        time.sleep(20)
        yield prometheus
        end.set()
        asking.join()
        ray.cancel(training)


def _answer(prometheus: PrometheusServer, query: Query) -> bool:
    """Whether there is data in the last five minutes."""
    now = time.time()
    if query.is_instant:
        return bool(prometheus.query(query.filled(), at=now))
    return bool(prometheus.query_range(query.filled(), start=now - 300, end=now, step_s=5))


def test_every_query_has_an_answer(live: PrometheusServer) -> None:
    queries = [*of_panels(), *of_variables()]
    empty = {(query.board, query.panel): query.expr for query in queries if not _answer(live, query)}
    assert {place: expr for place, expr in empty.items() if place not in EMPTY} == {}


def test_every_panel_can_be_drawn(live: PrometheusServer, tmp_path: Path) -> None:
    if not dashboard_pictures.CHROMIUM.exists():
        pytest.skip(f"NOT DRAWN: {dashboard_pictures.CHROMIUM} is absent (apt-get install chromium)")
    drawn = dashboard_pictures.draw(live.url, tmp_path, minutes=5, scrape_s=2)
    states = {(name, panel["title"]): panel["state"] for name, panels in drawn.items() for panel in panels}
    assert {place for place, state in states.items() if state == "error"} == set()
    assert {place for place, state in states.items() if state == "empty"} <= EMPTY.keys()
    assert all((tmp_path / f"{name}.png").stat().st_size > 50_000 for name in drawn)
