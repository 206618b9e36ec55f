"""What the first replica of an endpoint tells of it, and the others do not."""

from collections.abc import Iterator
from pathlib import Path

import endpoint_parts
import pytest

from uadray import __version__, metrics
from uadray.detectors.bundle import read_bundle
from uadray.serving.config import ServeConfig
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import Registry
from uadray.serving.stages.endpoint_gauges import tell


@pytest.fixture
def run() -> Iterator[None]:
    metrics.start_run("serve-0", kind="serve", has_info=False)
    yield
    metrics.end_run()


def gauges(name: str) -> dict[tuple[str, ...], float]:
    return {values: value for (of, values), value in metrics.told().items() if of == name}


@pytest.mark.usefixtures("run")
def test_bundles_are_told_as_they_are_swapped(tmp_path: Path) -> None:
    uris = [endpoint_parts.write_calibrated(tmp_path, name=f"b{seed}", seed=seed) for seed in (0, 1)]
    config = ServeConfig(out=str(tmp_path / "out"), bundles={"main": uris[0]})
    registry, jobs = Registry(config.out, default="main"), Jobs(config.out)
    registry.put_configured(config.bundles)

    def info(seed: int) -> tuple[str, ...]:
        return "serve", read_bundle(uris[seed]).id, "fanogan", f"cal{seed}", __version__

    tell(config, registry, jobs, is_first=True)
    assert gauges(metrics.RUN_INFO) == {info(0): 1}
    assert gauges(metrics.QUEUE) == {("to_read",): 0}
    assert gauges(metrics.CORES) == {("cpu",): 1, ("gpu",): 0}
    registry.put("main", uris[1])
    tell(config, registry, jobs, is_first=True)
    assert gauges(metrics.RUN_INFO) == {info(1): 1}
    registry.put("second", uris[0])
    tell(config, registry, jobs, is_first=True)
    assert gauges(metrics.RUN_INFO) == {info(1): 1, info(0): 1}
    tell(config, registry, jobs, is_first=False)
    assert gauges(metrics.RUN_INFO) == gauges(metrics.QUEUE) == gauges(metrics.CORES) == {}
