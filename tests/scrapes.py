"""What Ray's endpoint for Prometheus shows of a run: the sums over the processes that count for it."""

import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping

Sums = dict[tuple[str, str], float]
"""By the name of a metric, without `ray_`, and the values of its own labels, joined by commas in the order of names."""

NOT_OURS = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "run"}


def sums_by_run() -> dict[str, Sums]:
    """The sums of every run that the node's endpoint shows now."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    runs: dict[str, Sums] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_uadray_"):
                names = sorted(n for n in sample.labels if n not in NOT_OURS and not n.startswith("otel_"))
                labels = ",".join(sample.labels[name] for name in names)
                runs[sample.labels["run"]][sample.name.removeprefix("ray_"), labels] += sample.value
    return {run: dict(sums) for run, sums in runs.items()}


def awaited_run(expected: Mapping[tuple[str, str], float], prefix: str, *, within_s: float = 60) -> Sums:
    """The sums of a run of this prefix, once they are as expected; else an assertion that shows what there was."""
    runs: dict[str, Sums] = {}
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        runs = {run: sums for run, sums in sums_by_run().items() if run.startswith(prefix)}
        for sums in runs.values():
            if expected.items() <= sums.items():
                return sums
        time.sleep(1)
    raise AssertionError({run: {key: sums.get(key) for key in expected} for run, sums in runs.items()})
