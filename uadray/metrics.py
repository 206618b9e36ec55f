"""The name, unit and labels of each metric, once, and the ways to count: `count(RETRIES, cause="node")`.

    count, set_gauge --> sums of this process's run --0.5 s--> Ray --10 s--> its agent's endpoint, as `ray_uadray_...`

Outside Ray nothing is told. Slide ids are never labels: they are patient data, and unbounded; a value that is not
known beforehand is `other`. Each series has the label `run`, and each counter of a run is there from its start, at 0.

Ray is told each sum as a gauge. Its agent keeps a counter for as long as the node lives, so that every run would add
its series for ever; a gauge that is not set any more is dropped after 20 s. To Prometheus it is the same number.

A process that lives only for a short time must not count: its series would begin at its full count, and a rate does
not see what comes before the first value. Readers and scorers of a screening therefore report what they did in their
rows, and the driver counts it, once for each row, from 0 on. Tiles of a training are counted by the workers that learn
from them.
"""

import atexit
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from uadray import __version__
from uadray.errors import SYSTEM_REASONS

TILES, BYTES = "uadray_tiles_total", "uadray_bytes_total"
SECONDS, ERRORS = "uadray_seconds_total", "uadray_errors_total"
STAGE_SECONDS = "uadray_stage_seconds_total"
SLIDES, REASONS, RETRIES = "uadray_slides_total", "uadray_slide_reasons_total", "uadray_retries_total"
WAIT_SECONDS, QUEUE = "uadray_wait_seconds_total", "uadray_queue_length"
CACHE_REQUESTS, CACHE_BYTES = "uadray_cache_requests_total", "uadray_cache_bytes_total"
BATCH_TILES, BATCH_ROOM = "uadray_batch_tiles_total", "uadray_batch_room_total"
GPU_SECONDS, CORES = "uadray_gpu_seconds_total", "uadray_cores"
TRAIN_LOSS, TRAIN_STEP, TRAIN_FID = "uadray_train_loss", "uadray_train_step", "uadray_train_fid"
RUN_INFO = "uadray_run_info"

STAGES = (
    "train_step", "tile", "screen_read", "screen_score", "serve_map", "serve_reconstruct", "serve_score",
)  # fmt: skip
"""Values of the label `stage` of work that is counted in tiles."""

PARTS_OF_WORK = (
    "stat", "stage", "plan", "read", "decode", "resample", "quality", "stain", "map", "reconstruct", "score",
    "pictures", "commit",
)  # fmt: skip
"""Values of the label `stage` of `STAGE_SECONDS`, in the order of the work: `stage` is the copy to a local disk."""

STATES = ("scored", "not_assessable", "failed")
SLIDE_REASONS = (
    "air", "bad_mask", "cache_busy", "changed", "crashed", "device", "disk_full", "folds", "lost", "low_coverage",
    "memory", "missing", "no_access", "no_mpp", "no_overview", "no_stain", "node", "out_of_focus", "pen",
    "poor_quality", "scoring", "too_coarse", "too_large", "too_little_tissue", "unreachable", "unreadable",
)  # fmt: skip
CAUSES = (*sorted(SYSTEM_REASONS), "crashed")
QUEUES = ("to_read", "reading", "to_score", "scoring", "committing")
INFO = ("kind", "bundle", "detector", "calibration", "version")

OTHER = "other"
MOST_VALUES = 16
"""Values of a label whose values are not known beforehand; those beyond are `other`."""

LONGEST_VALUE = 100
"""Characters of a label's value."""


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        kind: a counter is what has come up to now, a gauge is what there is now.
        unit: of its values.
        description: for people.
        labels: the values of each label but `run`; none where they are not known beforehand.
    """

    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_BATCHED = ("screen_score", "serve_map", "serve_reconstruct", "serve_score")
METRICS = {
    TILES: Metric("counter", "tiles", "Tiles that a stage has finished", {"stage": STAGES}),
    BYTES: Metric("counter", "bytes", "Bytes of pixels that a stage has handled", {"stage": STAGES}),
    SECONDS: Metric("counter", "seconds", "Seconds that a stage was at work, of all its processes", {"stage": STAGES}),
    ERRORS: Metric("counter", "tiles", "Tiles or slides that a stage could not handle", {"stage": STAGES}),
    STAGE_SECONDS: Metric(
        "counter", "seconds", "Seconds of each part of the work, of all threads", {"stage": PARTS_OF_WORK}
    ),
    SLIDES: Metric("counter", "slides", "Slides that reached an end, by state", {"state": STATES}),
    REASONS: Metric("counter", "slides", "Slides that failed or are not assessable, by why", {"reason": SLIDE_REASONS}),
    RETRIES: Metric("counter", "tries", "What the system failed at, and is tried again, by cause", {"cause": CAUSES}),
    WAIT_SECONDS: Metric(
        "counter", "seconds", "Seconds without work: for tiles (data), or for whoever takes them (room)",
        {"on": ("data", "room")},
    ),
    QUEUE: Metric("gauge", "slides", "Slides, or parts of them, in each queue", {"queue": QUEUES}),
    CACHE_REQUESTS: Metric(
        "counter", "slides", "Slides in S3 that were in the slide cache, or not", {"outcome": ("hit", "miss")}
    ),
    CACHE_BYTES: Metric(
        "counter", "bytes", "Bytes that were in the slide cache, came into it, or had to go for others",
        {"outcome": ("hit", "miss", "evicted")},
    ),
    BATCH_TILES: Metric("counter", "tiles", "Tiles in the batches of a stage", {"stage": _BATCHED}),
    BATCH_ROOM: Metric("counter", "tiles", "Tiles that there was room for in these batches", {"stage": _BATCHED}),
    GPU_SECONDS: Metric(
        "counter", "seconds", "Seconds of GPUs that a stage had work on", {"stage": ("train_step", *_BATCHED)}
    ),
    CORES: Metric("gauge", "cores", "CPU cores and GPUs that this run may use", {"kind": ("cpu", "gpu")}),
    TRAIN_LOSS: Metric("gauge", "", "The newest value of each loss of a training", {"loss": ()}),
    TRAIN_STEP: Metric("gauge", "steps", "Steps that a training has done"),
    TRAIN_FID: Metric("gauge", "", "The newest FID of a training"),
    RUN_INFO: Metric("gauge", "", "1; what this run is", dict.fromkeys(INFO, ())),
}  # fmt: skip
"""Every metric by its name; Ray adds the prefix `ray_`."""

_OF_STAGES = (TILES, BYTES, SECONDS, ERRORS)
_OF_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "screen": (
        ("screen_read", "screen_score"),
        (
            *_OF_STAGES, STAGE_SECONDS, SLIDES, REASONS, RETRIES, WAIT_SECONDS, QUEUE, CACHE_REQUESTS, CACHE_BYTES,
            BATCH_TILES, BATCH_ROOM, GPU_SECONDS,
        ),
    ),
    "tile": (("tile",), (*_OF_STAGES, STAGE_SECONDS, RETRIES, CACHE_REQUESTS, CACHE_BYTES)),
    "train": (("train_step",), (*_OF_STAGES, RETRIES, WAIT_SECONDS, GPU_SECONDS)),
    "serve": (_BATCHED[1:], (*_OF_STAGES, STAGE_SECONDS, BATCH_TILES, BATCH_ROOM, GPU_SECONDS)),
}  # fmt: skip
"""Of each kind of run: its stages, and the metrics that are 0 from its start."""

Kind = Literal["screen", "tile", "train", "serve"]

_PARTS: dict[str, tuple[str, ...]] = {"serve": ("map", "reconstruct", "score")}
"""Parts of the work that a kind of run has, where these are not all."""

TELL_S = 0.5
"""How often Ray is told: what a scrape shows is up to so much older at one time than at another, and a rate over a
minute is off by that share."""

HOLD_S = 20.0
"""A run's counters are told as 0 for so long: two of the intervals in which Ray's endpoint is brought up to date, so
that a scrape every 15 s finds the 0 from which a rate begins."""

LINGER_S = 30.0
"""A run that has ended is told for so long, if its process lives: one that goes on, and begins another."""

_Series = tuple[str, tuple[str, ...]]


class _Run:
    """The sums of one run: by metric and the values of its labels."""

    def __init__(self, name: str) -> None:
        self.name, self.began, self.ended = name, time.monotonic(), float("inf")
        self._values: dict[_Series, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        with self._lock:
            series = self._series(name, labels)
            self._values[series] = self._values.get(series, 0.0) + value

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        with self._lock:
            self._values[self._series(name, labels)] = value

    def replace(self, name: str, values: Sequence[tuple[Mapping[str, str], float]]) -> None:
        with self._lock:
            for series in [series for series in self._values if series[0] == name]:
                del self._values[series]
            for labels, value in values:
                self._values[self._series(name, labels)] = value

    def values(self) -> dict[_Series, float]:
        with self._lock:
            return dict(self._values)

    def _series(self, name: str, labels: Mapping[str, str]) -> _Series:
        known = METRICS[name].labels
        if labels.keys() != known.keys():
            raise ValueError(f"{name} has the labels {', '.join(known) or '(none)'}, not {', '.join(labels)}")
        series = name, tuple(_bounded(labels[label], values) for label, values in known.items())
        if series in self._values or sum(of == name for of, _ in self._values) < _most(known):
            return series
        return name, (OTHER,) * len(known)


def _bounded(value: str, known: tuple[str, ...]) -> str:
    return value[:LONGEST_VALUE] if not known or value in known else OTHER


def _most(labels: Mapping[str, tuple[str, ...]]) -> int:
    """The most series of a metric in a run: all known values and `other`, or so many as are let in."""
    return max((len(values) + 1 if values else MOST_VALUES for values in labels.values()), default=1)


_run = _Run("")
_ended: list[_Run] = []
_telling, _stopped = threading.Lock(), threading.Event()


def start_run(
    name: str, stages: Sequence[str] | None = None, *, kind: Kind = "screen", info: Mapping[str, str] | None = None,
    has_info: bool = True,
) -> None:  # fmt: skip
    """Count for the run `name` in this process from now on; each of its counters starts at 0.

    Several processes may count for the same run: each has series of its own, which are added up.

    Args:
        name: eight hex digits, after `serve-` or `train-` where it is that.
        stages: that this process has; those of the kind unless given.
        kind: says which counters there are.
        info: of `INFO`, what is known; the kind and this version of uadray are.
        has_info: whether this process tells what the run is; of several, one does.
    """
    global _run
    end_run()
    _run = run = _Run(name)
    its_stages, names = _OF_KINDS[kind]
    for metric in names:
        for label, values in METRICS[metric].labels.items():  # each has one
            its_values = _PARTS.get(kind, PARTS_OF_WORK) if metric == STAGE_SECONDS else stages or its_stages
            for value in (v for v in values if label != "stage" or v in its_values):
                run.set(metric, 0, {label: value})
    if has_info:
        run.set(RUN_INFO, 1, dict.fromkeys(INFO, "") | {"kind": kind, "version": __version__} | dict(info or {}))
    _wake()


def end_run() -> None:
    """Nothing is counted for this run any more; its last sums are told now, and its gauges are 0."""
    global _run
    if _run.name:
        for queue in QUEUES:
            if (QUEUE, (queue,)) in _run.values():
                _run.set(QUEUE, 0, {"queue": queue})
        _run.ended = time.monotonic()
        _ended.append(_run)
        _run = _Run("")
        tell()


def count(name: str, value: float = 1, **labels: str) -> None:
    """Add to a counter."""
    if value:
        _run.add(name, value, labels)
        _wake()


def set_gauge(name: str, value: float, **labels: str) -> None:
    """What there is now; it is told again and again, until it is set anew."""
    _run.set(name, value, labels)
    _wake()


def set_gauges(name: str, values: Sequence[tuple[Mapping[str, str], float]]) -> None:
    """All that there is of a gauge now, labels and value; series that are not among them are told no more."""
    _run.replace(name, values)
    _wake()


def stage_seconds() -> dict[str, float]:
    """Seconds of each part of the work that have been counted for the present run."""
    sums = _run.values().items()
    return {values[0]: round(seconds, 3) for (name, values), seconds in sums if name == STAGE_SECONDS and seconds}


class Meter:
    """The counters of one stage."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def add(self, *, tiles: int = 0, bytes_: int = 0, errors: int = 0, seconds: float = 0.0) -> None:
        """Add to the counters."""
        for name, value in ((TILES, tiles), (BYTES, bytes_), (ERRORS, errors), (SECONDS, seconds)):
            count(name, value, stage=self._stage)


@contextmanager
def stage(name: str) -> Iterator[Meter]:
    """Count what happens inside, and how long it took.

    Raises:
        ValueError: a stage that is not in `STAGES`.
    """
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}; known: {', '.join(STAGES)}")
    meter, start = Meter(name), time.perf_counter()
    try:
        yield meter
    finally:
        meter.add(seconds=time.perf_counter() - start)


def count_slide(state: str, reason: str | None = None) -> None:
    """One slide ended as `scored`, `not_assessable` or `failed`, the latter two for a reason."""
    count(SLIDES, state=state)
    if reason:
        count(REASONS, reason=reason)


def tell() -> None:
    """Tell Ray, where it runs, what has been counted; a thread does so every `TELL_S`."""
    ray = sys.modules.get("ray")  # where nobody has imported it, it does not run
    if ray is None or not ray.is_initialized():
        return
    with _telling:
        _tell(time.monotonic())


def told() -> dict[_Series, float]:
    """What this run has counted: by metric and the values of its labels."""
    return _run.values()


def told_runs(now: float) -> list["_Run"]:
    """The runs that Ray is told of; those that have ended long ago are forgotten."""
    for run in [run for run in _ended if now - run.ended > LINGER_S]:
        _ended.remove(run)
    return [*_ended, _run]


def _tell(now: float) -> None:
    for run in told_runs(now):
        if not run.name:
            continue  # work that is no run of its own, as of `uadray score`
        is_held = now - run.began < HOLD_S and run.ended > now
        for (name, values), value in run.values().items():
            metric = METRICS[name]
            tags = dict(zip(metric.labels, values, strict=True)) | {"run": run.name}
            _gauge(name).set(0.0 if is_held and metric.kind == "counter" else value, tags=tags)


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    metric = METRICS[name]
    unit = f" ({metric.unit})" if metric.unit else ""
    return Gauge(name, description=metric.description + unit, tag_keys=(*metric.labels, "run"))


@cache
def _wake() -> None:
    """Start the thread that tells, once."""
    threading.Thread(target=_tell_on_and_on, name="uadray-metrics", daemon=True).start()
    atexit.register(_stop)


def _tell_on_and_on() -> None:
    while not _stopped.wait(TELL_S):
        tell()


def _stop() -> None:
    _stopped.set()
    tell()
