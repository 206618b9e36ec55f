"""How long the stages of a detector take: `clocked` gives the same detector with a clock around each of its stages."""

import threading
import time
from collections.abc import Callable
from typing import Any, final

import torch

from uadray.detectors.detector import STAGES, Detector, Stage


@final
class StageClock:
    """Seconds of the stages since they were last taken; several threads may use it.

    A GPU is measured by marks in its own queue: to wait for it at each stage would keep it from fetching the next batch
    meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._marks: list[tuple[Stage, Any, Any]] = []

    def around(self, stage: Stage, function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        """The function, timed as this stage."""
        if device.type == "cuda":
            return lambda *arguments: self._on_gpu(stage, function, *arguments)
        return lambda *arguments: self._here(stage, function, *arguments)

    def take(self) -> dict[Stage, float]:
        """Seconds of each stage since the last call. Waits for a GPU that is still at work."""
        with self._lock:
            seconds, marks = self._seconds, self._marks
            self._seconds, self._marks = dict.fromkeys(STAGES, 0.0), []
        for stage, start, end in marks:
            end.synchronize()
            seconds[stage] += start.elapsed_time(end) / 1000
        return seconds

    def _here(self, stage: Stage, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            with self._lock:
                self._seconds[stage] += time.perf_counter() - start

    def _on_gpu(self, stage: Stage, function: Callable[..., Any], *arguments: Any) -> Any:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        answer = function(*arguments)
        end.record()
        with self._lock:
            self._marks.append((stage, start, end))
        return answer


def clocked(detector: Detector, clock: StageClock) -> Detector:
    """The same detector, whose stages `clock` times."""
    return Detector(
        clock.around("map", detector.mapping, detector.device),
        clock.around("reconstruct", detector.reconstruct, detector.device),
        clock.around("score", detector.score, detector.device),
        input_px=detector.input_px, device=detector.device, batch_tiles=detector.batch_tiles,
        has_picture=detector.has_picture, has_cells=detector.has_cells,
        memory=detector.memory, searches=detector.searches,
    )  # fmt: skip
