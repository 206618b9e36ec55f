"""A stand-in for a detector on a GPU: it takes a known time and no CPU, so that what feeds it is measured."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import Scored
from uadray.detectors.pixels import Pixels, staged

STAND_IN_S = 20e-6
"""Seconds a tile: a GPU that scores 50,000 tiles a second."""


class StandIn:
    """Copies tiles to where a GPU would fetch them, then sleeps as long as a GPU would work. One caller at a time."""

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def __call__(self, pixels: Pixels) -> Scored:
        """Copy and sleep; then answer as a detector does, with mean colours as scores."""
        staged(pixels, pixels.shape[1])
        with self._busy:
            time.sleep(STAND_IN_S * len(pixels))
        corner = pixels[:, :8, :8].astype(np.float64)
        residual = np.zeros((len(pixels), 8, 8), np.float32)
        return Scored(corner.mean((1, 2, 3)), residual, lambda rows: (pixels[list(rows)], pixels[list(rows)]))


def load_stand_in(uri: str, bundle: Bundle, *, device: str = "cpu") -> StandIn:
    """The stand-in, in the place of `load_detector`."""
    return StandIn()


LOADS: dict[str, Callable[..., Any]] = {"real": load_detector, "gpu": load_stand_in}
"""What loads the detector of each case of `bench screen`."""
