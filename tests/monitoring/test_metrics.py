"""Counters arrive at Ray's Prometheus endpoint, under their names and no other labels than their own."""

import time
import urllib.request

import pytest
import ray

from uadray.monitoring import metrics


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown stage"), metrics.stage("screen_raed"):
        pass


@ray.remote(num_cpus=0)
class Reader:
    def read(self) -> str:
        with metrics.stage("screen_read") as meter:
            meter.add(tiles=7, bytes_=700, errors=2)
        metrics.count_slide("failed")
        return str(ray.get_runtime_context().get_worker_id())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rays_endpoint_shows_what_was_counted() -> None:
    reader = Reader.remote()
    worker = ray.get(reader.read.remote())
    port = ray.nodes()[0]["MetricsExportPort"]
    expected = {
        f'ray_{metrics.TILES}{{stage="screen_read"}}': 7.0,
        f'ray_{metrics.BYTES}{{stage="screen_read"}}': 700.0,
        f'ray_{metrics.ERRORS}{{stage="screen_read"}}': 2.0,
        f'ray_{metrics.SLIDES}{{state="failed"}}': 1.0,
    }
    found: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not expected.items() <= found.items():
        time.sleep(1)
        found = scraped(port, worker)
    assert expected.items() <= found.items()
    assert any(name.startswith(f"ray_{metrics.SECONDS}") for name in found)


def scraped(port: int, worker: str) -> dict[str, float]:
    """The series of one process: other tests of the session count on the same cluster."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "uadray" in sample.name and sample.labels["WorkerId"] == worker:
                own = {k: v for k, v in sample.labels.items() if k in ("stage", "state")}
                found[sample.name + "{" + ",".join(f'{k}="{v}"' for k, v in own.items()) + "}"] = sample.value
    return found
