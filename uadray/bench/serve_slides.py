"""`bench serve --only slides`: slides a minute through an endpoint over `uadray screen`, with one detector.

In each round the endpoint gets few slides and then many, and `screen` few and many, one after the other, each on a Ray
of its own and into a folder of its own. The rate is that of the further slides over the further seconds: starting costs
neither side. Both score with one thread, in batches of 64. `screen` reads two slides and commits 16 at a time; of the
endpoint's three workers each reads a slide, waits for its scores and commits it, one after the other. The decisions of
all slides must agree.

`cpu_ms_per_slide` is the CPU time of all processes but the S3 server; unlike rates it holds on a busy machine too.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from uadray.bench.endpoint import Endpoint, running_endpoint
from uadray.bench.processes import CpuMeter
from uadray.bench.serve_material import Material, mosaics
from uadray.detectors.detector import BATCH
from uadray.errors import WorkError
from uadray.screening import decision_segments
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.storage import objects

GOALS = {"over_screen": 0.9}
"""Least ratio of slides a minute, as the median over the rounds."""

FEW, MANY = 8, 64
ROUNDS = 2
WORKERS = 3

Run = tuple[int, float, float]
"""Slides, seconds, and CPU seconds of all processes but the server."""


def run(place: Material, *, few: int = FEW, many: int = MANY, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure; some minutes."""
    rows = mosaics(place, many + few)
    first, rest = rows[:few], rows[few:]
    rates: dict[str, list[float]] = {"endpoint": [], "screen": []}
    runs: dict[str, list[list[Run]]] = {"endpoint": [], "screen": []}
    cpu_ms: dict[str, list[float]] = {"endpoint": [], "screen": []}
    for number in range(rounds):
        for side, function in (("endpoint", _through_endpoint), ("screen", _screened)):
            each = _apart(function, place.elsewhere(), f"slides-{side}-{number}", first, rest)
            runs[side].append([(n, round(seconds, 2), round(cpu_s, 2)) for n, seconds, cpu_s in each])
            rates[side].append(60 * slope([(n, seconds) for n, seconds, _ in each]))
            cpu_ms[side].append(1000 / slope([(n, cpu_s) for n, _, cpu_s in each]))
    _check_same(place, len(rows), rounds)
    ratios = [ours / theirs for ours, theirs in zip(rates["endpoint"], rates["screen"], strict=True)]
    over = statistics.median(ratios)
    return {
        "over_screen": round(over, 3), "over_screen_rounds": [round(ratio, 3) for ratio in ratios],
        **{f"{side}_slides_per_minute": [round(rate, 1) for rate in each] for side, each in rates.items()},
        "cpu_ms_per_slide": {side: [round(ms, 1) for ms in each] for side, each in cpu_ms.items()},
        "runs_slides_seconds_cpu": runs, "slides": len(rows), "met": over >= GOALS["over_screen"],
    }  # fmt: skip


def slope(runs: Sequence[tuple[int, float]]) -> float:
    """Slides a second of what the larger run did beyond the smaller.

    >>> slope([(10, 15.0), (60, 25.0)])
    5.0
    """
    (few, few_s), (many, many_s) = runs
    return (many - few) / max(many_s - few_s, 1e-9)


def _apart(function: Callable[..., list[Run]], *arguments: Any) -> list[Run]:
    """Call a function in a new process, which has a Ray of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _through_endpoint(place: Material, out: str, first: list[SlideRow], rest: list[SlideRow]) -> list[Run]:
    slide = {"replicas": WORKERS, "cpus": 0}
    arguments = place.arguments(out, one_replica=True, slide=slide, batch_tiles=BATCH)
    runs = []
    with running_endpoint(arguments) as endpoint, CpuMeter() as meter:
        for name, rows in (("few", first), ("many", rest)):
            manifest = f"{place.root}/slides/{out}-{name}.csv"
            write_manifest(rows, manifest)
            began, before = time.perf_counter(), sum(meter.seconds().values())
            batch = endpoint.ask("/v1/batches", {"manifest": manifest})
            if batch.status != 202:
                raise WorkError(f"the bench's own batch: {batch.status} {batch.body[:300]!r}")
            _wait_decided(endpoint, f"{place.root}/{out}", len(first) + (len(rest) if name == "many" else 0))
            runs.append((len(rows), time.perf_counter() - began, sum(meter.seconds().values()) - before))
    return runs


def _wait_decided(endpoint: Endpoint, out: str, n: int) -> None:
    """Wait until so many slides are decided: a look at the folder costs the endpoint nothing."""
    endpoint.wait(lambda: len(decision_segments.list_decisions(out)) >= n, 600, f"{n} decisions", every_s=0.25)


def _screened(place: Material, out: str, first: list[SlideRow], rest: list[SlideRow]) -> list[Run]:
    from uadray.cluster.connection import connect
    from uadray.cluster.workers import StreamConfig
    from uadray.screening.bundles import calibrated_bundle
    from uadray.screening.job import ScreenConfig, screen

    connect()
    config = ScreenConfig(stream=StreamConfig(score_workers=1, threads=1, batch_tiles=BATCH))
    bundles, runs, rows = [calibrated_bundle(place.bundle_uri)], [], list[SlideRow]()
    with CpuMeter() as meter:
        for more in (first, rest):
            rows += more
            began, before = time.perf_counter(), sum(meter.seconds().values())
            screen(rows, bundles=bundles, out=f"{place.root}/{out}", config=config)
            runs.append((len(more), time.perf_counter() - began, sum(meter.seconds().values()) - before))
    return runs


def _check_same(place: Material, n: int, rounds: int) -> None:
    """The decisions of both sides agree, in every round.

    Raises:
        WorkError: they do not.
    """
    for number in range(rounds):
        ours, theirs = (_scores(f"{place.root}/slides-{side}-{number}") for side in ("endpoint", "screen"))
        if len(ours) != n or ours.keys() != theirs.keys():
            raise WorkError(f"the bench's own slides: {len(ours)} decided by the endpoint, {len(theirs)} by screen")
        if (most := max(abs(ours[key] - theirs[key]) for key in ours)) > 1e-5:
            raise WorkError(f"the bench's own slides: scores differ by {most:g}")


def _scores(out: str) -> dict[str, float]:
    table = decision_segments.read_decisions(objects.resolve(out, "")).table
    return {
        str(key): float("nan") if score is None else float(score)
        for key, score in zip(table["slide_id"].to_pylist(), table["score"].to_pylist(), strict=True)
    }
