"""Counters arrive at Ray's Prometheus endpoint, under their names and no other labels than their own."""

import inspect
import json
import sys
import time
import urllib.request

import pytest
import ray
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from uadray import metrics
from uadray.screening.results import count_part


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
    expected = {
        f'ray_{metrics.TILES}{{stage="screen_read"}}': 7.0,
        f'ray_{metrics.BYTES}{{stage="screen_read"}}': 700.0,
        f'ray_{metrics.ERRORS}{{stage="screen_read"}}': 2.0,
        f'ray_{metrics.SLIDES}{{state="failed"}}': 1.0,
    }
    found = _awaited(worker, expected, labels=("stage", "state"))
    assert any(name.startswith(f"ray_{metrics.SECONDS}") for name in found)


@ray.remote(num_cpus=0)
class Driver:
    """Counts as the driver of a screening does."""

    def screen(self) -> str:
        metrics.start_run("r1")
        part = {"header": json.dumps({"read_s": 0.5, "bytes": 300, "errors": 0, "score_s": 0.25, "tiles": 3})}
        for _ in range(4):
            count_part(part)
        metrics.count_slide("scored")
        return str(ray.get_runtime_context().get_worker_id())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_screening_counts_from_zero_under_its_own_name() -> None:
    """What did not happen is 0 and not absent: a rate of nothing is nothing, and no gap."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    driver = Driver.remote()
    worker = ray.get(driver.screen.remote())
    expected = {
        f'ray_{metrics.TILES}{{run="r1",stage="screen_read"}}': 12.0,
        f'ray_{metrics.BYTES}{{run="r1",stage="screen_score"}}': 1200.0,
        f'ray_{metrics.SECONDS}{{run="r1",stage="screen_read"}}': 2.0,
        f'ray_{metrics.SECONDS}{{run="r1",stage="screen_score"}}': 1.0,
        f'ray_{metrics.ERRORS}{{run="r1",stage="screen_read"}}': 0.0,
        f'ray_{metrics.SLIDES}{{run="r1",state="scored"}}': 1.0,
        f'ray_{metrics.SLIDES}{{run="r1",state="failed"}}': 0.0,
    }
    _awaited(worker, expected, labels=("stage", "state", "run"))


def _awaited(worker: str, expected: dict[str, float], *, labels: tuple[str, ...]) -> dict[str, float]:
    """The series of a process, once they are as expected."""
    found: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not expected.items() <= found.items():
        time.sleep(1)
        found = scraped(ray.nodes()[0]["MetricsExportPort"], worker, labels)
    assert expected.items() <= found.items()
    return found


def test_rays_own_names_that_are_used_are_there() -> None:
    """Private ones, behind one function each: `metrics.add` and `stream.stop_execution`."""
    from ray.data.dataset import Dataset
    from ray.util.metrics import Counter

    assert callable(Counter._record)
    assert "self._current_executor = executor" in inspect.getsource(Dataset)
    assert callable(StreamingExecutor.shutdown)


def scraped(port: int, worker: str, labels: tuple[str, ...]) -> dict[str, float]:
    """The series of one process: other tests of the session count on the same cluster."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "uadray" in sample.name and sample.labels["WorkerId"] == worker:
                own = {k: v for k, v in sample.labels.items() if k in labels}
                found[sample.name + "{" + ",".join(f'{k}="{v}"' for k, v in sorted(own.items())) + "}"] = sample.value
    return found
