"""Seconds of a detector's stages: of the thread on a CPU; on a GPU of its queue, which runs behind the thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from uadray.stage_seconds import add_seconds, current_record, tally, timed

R = TypeVar("R")


class StageClock:
    """Times the stages of one call.

    Args:
        events: whether they are timed by marks in a GPU's queue.
    """

    def __init__(self, *, events: bool) -> None:
        self._events = events
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def timed(self, stage: str, function: Callable[..., R], *arguments: Any) -> R:
        """Call a stage."""
        if not self._events:
            with timed(stage):
                return function(*arguments)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = function(*arguments)
        end.record()
        self._marks.append((stage, begin, end))
        return result

    def read(self) -> None:
        """Add what the GPU took; it has been waited for."""
        for stage, begin, end in self._marks:
            seconds = begin.elapsed_time(end) / 1000
            add_seconds(stage, seconds)
            tally("gpu_seconds", seconds)


@contextmanager
def stage_clock(device: torch.device) -> Iterator[StageClock]:
    """A clock for a block at whose end the device has been waited for."""
    clock = StageClock(events=device.type == "cuda" and current_record() is not None)
    yield clock
    clock.read()
