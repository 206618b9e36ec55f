"""The name of each metric, and the one way to count: `with stage("screen_read") as meter: meter.add(tiles=64)`.

On a Ray cluster the counters go to Ray's metrics agent, whose Prometheus endpoint shows them with the prefix `ray_`;
outside Ray nothing is counted. Slide ids are never labels: they are patient data, and unbounded.

A process that lives only for a short time must not count: its series would begin at its full count, and a rate does
not see what comes before the first value. Readers and scorers of a screening therefore report what they did in their
rows, and the driver counts it, once for each row, from 0 on. Tiles of a training are counted by the workers that learn
from them.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

TILES = "uadray_tiles_total"
BYTES = "uadray_bytes_total"
SECONDS = "uadray_seconds_total"
ERRORS = "uadray_errors_total"
SLIDES = "uadray_slides_total"

DESCRIPTIONS = {
    TILES: "Tiles that a stage has finished",
    BYTES: "Bytes of pixels that a stage has handled",
    SECONDS: "Seconds that a stage was at work",
    ERRORS: "Tiles or slides that a stage could not handle",
    SLIDES: "Slides that reached an end, by state",
}

STAGES = (
    "train_step", "tile", "screen_read", "screen_score", "serve_map", "serve_reconstruct", "serve_score",
)  # fmt: skip
"""Values of the label `stage`."""

STATES = ("scored", "not_assessable", "failed")
"""Values of the label `state`."""

_run = ""


def start_run(name: str, stages: Sequence[str] = ("screen_read", "screen_score")) -> None:
    """Count for the run `name` in this process from now on; each of its counters starts at 0."""
    global _run
    _run = name
    for stage_name in stages:
        for counter in (TILES, BYTES, SECONDS, ERRORS):
            _inc(counter, 0, {"stage": stage_name})
    for state in STATES:
        _inc(SLIDES, 0, {"state": state})


class Meter:
    """The counters of one stage."""

    def __init__(self, stage: str) -> None:
        self._tags = {"stage": stage}

    def add(self, *, tiles: int = 0, bytes_: int = 0, errors: int = 0, seconds: float = 0.0) -> None:
        """Add to the counters; zeros are not sent."""
        for name, value in ((TILES, tiles), (BYTES, bytes_), (ERRORS, errors), (SECONDS, seconds)):
            if value:
                _inc(name, value, self._tags)


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


def count_slide(state: str) -> None:
    """One slide ended as `scored`, `not_assessable` or `failed`."""
    _inc(SLIDES, 1, {"state": state})


def _inc(name: str, value: float, tags: dict[str, str]) -> None:
    ray = sys.modules.get("ray")  # where nobody has imported it, it does not run
    if ray is not None and ray.is_initialized():
        counter = _counter(name, (*tags, "run"))
        add(counter, value, tags | {"run": _run})


def add(counter: Any, value: float, tags: dict[str, str]) -> None:
    """Add to a counter of Ray's.

    Its public `inc` refuses 0, so 0 goes by a private name: else a counter would be absent until it counts something.
    """
    if value:
        counter.inc(value, tags=tags)
    else:
        counter._record(0.0, tags=tags)


@cache
def _counter(name: str, tag_keys: tuple[str, ...]) -> Any:
    from ray.util.metrics import Counter

    return Counter(name, description=DESCRIPTIONS[name], tag_keys=tag_keys)
