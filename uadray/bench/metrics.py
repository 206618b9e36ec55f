"""`bench metrics`: whether what Prometheus sees of screenings is right, and what it costs.

`totals`: two screenings of painted slides at the same time in one Ray cluster; a Prometheus scrapes its head every
10 s. After both have ended, the last value of every counter of each is compared with what its own decisions say. The
share of the readers' and scorers' time that the parts of the work explain is given beside it.

`rate`: a screening of made-up slides, of one tile and without any work, which goes on for two minutes. `rate` over the
last minute, as Prometheus answers it, is compared with the slides that were decided in a minute, some times. That
minute ends `rate_lag_s` before, which is the same for all: what an endpoint shows is some seconds old.

`series`: twenty screenings one after the other in one cluster. Series of ours at Ray's endpoint are counted as the
first one ends, and as the last one does. Before these two the endpoint has had time to forget those before; in between
they follow each other at once. A counter of Ray's own would stay for as long as the node lives: there would be twenty
times as many.

`overhead`: screenings of painted slides with and without metrics, in turn, in one Ray on this machine. What is compared
is the CPU time of all processes: without metrics nothing is timed, counted or told, in readers, scorers and driver.
"""

import json
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray import metrics
from uadray.bench.archive import FreeDetector, write_bundle_of_one_tile
from uadray.bench.command import Command, shortened
from uadray.bench.made_up import CONTENT, made_up, read_made_up
from uadray.bench.metrics_overhead import overhead, painted
from uadray.bench.network import HERE, made_network
from uadray.bench.prometheus import PrometheusServer, missing_programs
from uadray.bench.ray_nodes import RayNode, ray_cluster
from uadray.errors import InputError, WorkError
from uadray.screening.decision_segments import read_decisions
from uadray.slides.manifest import SlideRow

GOALS = {"totals_off": 0.02, "rate_off": 0.02, "overhead": 0.02, "series_growth": 0.05}
"""The most of each figure, all of them shares."""

CASES = ("totals", "rate", "series", "overhead")

SCRAPE_S, WINDOW_S = 10, 60
"""How often Prometheus scrapes: as often as Ray brings its endpoint up to date; and over how long a rate is taken."""

SEEN_S = 2 * SCRAPE_S + 5
"""After so long what was told at the end of a screening has been scraped, and Ray's endpoint has dropped it."""

DRIVER = "import sys; from uadray.bench.metrics import screened; screened(*sys.argv[1:])"
JOIN_S, LIMIT_S = 60.0, 600.0

MOST_PER_CORE_S, STREAM_S = 150, 130
"""More made-up slides than are decided in a second with each core; and how long they go on."""

LAG_S = 12.0
"""What Prometheus shows is older by less than this: Ray is told every half second, and brings its endpoint up to date
every 10 s."""


def run(*, only: Sequence[str] = (), slides: int = 24, screenings: int = 20, rounds: int = 3) -> dict[str, Any]:
    """Measure; prints nothing. Takes a quarter of an hour.

    Args:
        only: of `CASES`; all unless given.
        slides: painted ones, of each screening of `totals` and `overhead`.
        screenings: of `series`.
        rounds: of `overhead`, each of four screenings.

    Raises:
        InputError: there is no such case, or no Prometheus.
    """
    unknown = set(only) - set(CASES)
    if unknown:
        raise InputError(f"no case {', '.join(sorted(unknown))}; there are: {', '.join(CASES)}")
    if missing := missing_programs():
        raise InputError(f"{', '.join(missing)} is needed: apt-get install prometheus prometheus-alertmanager")
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        folder = Path(name)
        if not only or "overhead" in only:
            figures |= overhead(folder, slides, rounds)
        if not only or {"totals", "rate", "series"} & set(only):
            with _scraped_cluster(folder) as (environment, endpoint, prometheus):
                if not only or "totals" in only:
                    figures |= _totals(folder, environment, prometheus, slides)
                if not only or "rate" in only:
                    figures |= _rate(folder, environment, prometheus)
                if not only or "series" in only:
                    figures |= _series(folder, environment, endpoint, screenings)
    measured = {name: goal for name, goal in GOALS.items() if name in figures}
    return figures | {"goals": GOALS, "goals_met": all(figures[name] <= goal for name, goal in measured.items())}


@contextmanager
def _scraped_cluster(folder: Path) -> Iterator[tuple[dict[str, str], str, PrometheusServer]]:
    """A Ray cluster of one node: what its drivers need in their environment, its endpoint, and who scrapes it."""
    node = RayNode(HERE, os.cpu_count() or 2)
    with made_network() as network, ray_cluster(network, [node], {"RAY_AUTH_MODE": "disabled"}) as cluster:
        with Command([sys.executable, "-c", _ENDPOINT], cluster.environment) as asking:
            asking.wait(JOIN_S)
            if not asking.lines or not asking.lines[-1][1].startswith("http://"):
                raise WorkError(f"the cluster does not answer: {shortened(asking.lines)}")
            endpoint = asking.lines[-1][1]
        target = endpoint.removeprefix("http://").removesuffix("/metrics")
        config = folder / "prometheus.yml"
        config.write_text(
            f"global: {{scrape_interval: {SCRAPE_S}s}}\n"
            f"scrape_configs: [{{job_name: ray, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        with PrometheusServer(config) as prometheus:
            yield cluster.environment, endpoint, prometheus


_ENDPOINT = """
import ray
from uadray.bench.ray_nodes import wait_for_cores
wait_for_cores(1)
node = ray.nodes()[0]
print(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
"""


def screened(folder: str, out: str, kind: str, n: str) -> None:
    """Screen in this process, on the cluster of `RAY_ADDRESS`; prints the summary and the run's name as JSON."""
    from uadray.cluster.connection import connect
    from uadray.screening.bundles import calibrated_bundle
    from uadray.screening.job import screen

    connect()
    began = time.perf_counter()
    if kind == "made_up":
        rows = made_up(f"{folder}/made_up", int(n))
        options: dict[str, Any] = {"read": read_made_up, "load": FreeDetector}
    else:
        rows = [SlideRow(f"s{i:03}", f"{folder}/slides/s{i:03}.tif") for i in range(int(n))]
        options = {}
    summary = screen(rows, bundles=[calibrated_bundle(f"{folder}/bundle-{kind}")], out=out, **options)
    run_name = metrics.told_runs(time.monotonic())[-2].name
    print(json.dumps(summary | {"run": run_name, "seconds": time.perf_counter() - began}, default=str))


def _started(folder: Path, environment: dict[str, str], *, out: str, kind: str, n: int) -> Command:
    return Command([sys.executable, "-c", DRIVER, str(folder), str(folder / out), kind, str(n)], environment)


def _summary(command: Command) -> dict[str, Any]:
    if command.wait(LIMIT_S) != 0:
        raise WorkError(f"the screening has failed: {shortened(command.lines)}")
    summary: dict[str, Any] = json.loads(command.lines[-1][1])
    return summary


def _totals(folder: Path, environment: dict[str, str], prometheus: PrometheusServer, n: int) -> dict[str, Any]:
    painted(folder, n)
    sizes = {"first": n, "second": n // 2}
    with ExitStack() as stack:
        running = {
            out: stack.enter_context(_started(folder, environment, out=out, kind="painted", n=size))
            for out, size in sizes.items()
        }
        summaries = {out: _summary(command) for out, command in running.items()}
    time.sleep(SEEN_S)
    off, shares = {}, {}
    for out, summary in summaries.items():
        seen = _last_values(prometheus, summary["run"])
        for name, true in _truth(folder / out).items():
            off[f"{out} {name}"] = abs(seen.get(name, 0.0) - true) / max(true, 1)
        parts = {name: value for name, value in seen.items() if name.startswith(metrics.STAGE_SECONDS)}
        whole = sum(value for name, value in seen.items() if name.startswith(metrics.SECONDS))
        shares[out] = round((sum(parts.values()) - parts[f"{metrics.STAGE_SECONDS} commit"]) / whole, 3)
    return {
        "totals_off": round(max(off.values()), 4),
        "totals": len(off),
        "totals_worst": max(off, key=lambda name: off[name]),
        "explained_by_parts": shares,
    }


def _last_values(prometheus: PrometheusServer, run_name: str) -> dict[str, float]:
    """The last value of each series of a run, by metric and label."""
    answer = prometheus.query(f'last_over_time({{__name__=~"ray_uadray_.*_total",run="{run_name}"}}[1h])')
    values = {}
    for one in answer:
        series = one["metric"]
        name = series["__name__"].removeprefix("ray_")
        labels = [series[label] for label in metrics.METRICS[name].labels]
        values[" ".join([name, *labels])] = float(one["value"][1])
    return values


def _truth(out: Path) -> dict[str, float]:
    """What the decisions of a screening say of it."""
    table = _decisions(out)
    tiles = float(sum(table["n_scored"].to_pylist()))
    states = table["state"].to_pylist()
    truth = {f"{metrics.SLIDES} {state}": float(states.count(state)) for state in metrics.STATES}
    stages = {f"{metrics.TILES} {stage}": tiles for stage in ("screen_read", "screen_score")}
    none = {f"{name} {stage}": 0.0 for name in (metrics.ERRORS,) for stage in ("screen_read", "screen_score")}
    causes = {f"{metrics.RETRIES} {cause}": 0.0 for cause in metrics.CAUSES}
    return truth | stages | none | causes | {f"{metrics.BATCH_TILES} screen_score": tiles}


def _decisions(out: Path) -> pa.Table:
    return read_decisions(str(out)).table


def _rate(folder: Path, environment: dict[str, str], prometheus: PrometheusServer) -> dict[str, Any]:
    """Made-up slides in a stream that is ended in its midst; the rate of slides at moments `SCRAPE_S` apart."""
    n = MOST_PER_CORE_S * (os.cpu_count() or 2) * STREAM_S
    (folder / "made_up").mkdir()
    for row in made_up(str(folder / "made_up"), n):
        Path(row.uri).write_bytes(CONTENT)
    write_bundle_of_one_tile(str(folder / "bundle-made_up"))
    rates: dict[float, float] = {}
    query = f'sum(rate(ray_{metrics.SLIDES}{{state="scored"}}[{WINDOW_S}s]))'
    with _started(folder, environment, out="steady", kind="made_up", n=n) as command:
        until = time.monotonic() + STREAM_S
        while time.monotonic() < until and command.wait(SCRAPE_S) is None:
            found = prometheus.query(query)
            rates[time.time()] = float(found[0]["value"][1]) if found else 0.0
    texts = _decisions(folder / "steady")["decided_at"].to_pylist()
    decided = np.sort([datetime.fromisoformat(text).timestamp() for text in texts])
    seen = {at: rate for at, rate in rates.items() if at - WINDOW_S - LAG_S > decided[0] + SCRAPE_S}
    if not seen:
        raise WorkError(f"{len(decided)} slides were decided within {decided[-1] - decided[0]:.0f} s: no whole minute")
    off = {lag_s: rates_off(seen, decided, lag_s) for lag_s in np.arange(0, LAG_S, 0.5).tolist()}
    lag_s = min(off, key=lambda each: max(map(abs, off[each])))
    return {
        "rate_off": round(max(map(abs, off[lag_s])), 4),
        "rate_lag_s": lag_s,
        "rate_offs": [round(each, 4) for each in off[lag_s]],
        "rate_offs_without_lag": [round(each, 4) for each in off[0.0]],
        "rates": [round(rate, 2) for rate in seen.values()],
    }


def rates_off(seen: Mapping[float, float], decided: npt.NDArray[np.float64], lag_s: float) -> list[float]:
    """How far each rate is off that of the decisions in the same time, so much before."""
    ends = np.array(list(seen)) - lag_s
    true = (np.searchsorted(decided, ends) - np.searchsorted(decided, ends - WINDOW_S)) / WINDOW_S
    return [float(each) for each in np.array(list(seen.values())) / true - 1]


def _series(folder: Path, environment: dict[str, str], endpoint: str, n: int) -> dict[str, Any]:
    """Our series at Ray's endpoint as screenings end. All but the first and the last follow each other at once."""
    painted(folder, 2)
    counts: list[int] = []
    for number in range(n):
        if number in (0, n - 1):
            time.sleep(SEEN_S)
        with _started(folder, environment, out=f"small-{number}", kind="painted", n=2) as command:
            _summary(command)
        counts.append(_count_of_ours(endpoint))
    return {
        "screenings": n, "series": counts, "series_growth": round(counts[-1] / counts[0] - 1, 4), "most": max(counts),
    }  # fmt: skip


def _count_of_ours(endpoint: str) -> int:
    with urllib.request.urlopen(endpoint, timeout=10) as answer:  # noqa: S310 - our own cluster
        return len(re.findall(r"^ray_uadray_", answer.read().decode(), re.MULTILINE))
