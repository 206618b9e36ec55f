"""Stand-ins for a detector, so that what feeds it is measured.

One takes the time of a GPU and no CPU. One takes no time, and does all that a detector does on the host: the real
`Detector` around stages that hand on what they get.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import Detector, Scored, assemble
from uadray.detectors.latents import Latent
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
        return Scored(
            corner.mean((1, 2, 3)),
            lambda rows: (pixels[list(rows)], pixels[list(rows)]),
            lambda rows: np.zeros((len(rows), 8, 8), np.float32),
        )


def load_stand_in(uri: str, bundle: Bundle, *, device: str = "cpu") -> StandIn:
    """The stand-in, in the place of `load_detector`."""
    return StandIn()


def load_host_work(uri: str, bundle: Bundle, *, device: str = "cpu") -> Detector:
    """A detector that costs what its host does: conversion to floats, the stages' calls, pictures of chosen tiles."""
    return assemble(
        {}, mapping=lambda _: lambda x: x, reconstruct=lambda _: lambda z: z if isinstance(z, Tensor) else z[0],
        score=lambda _: _corner_score, input_px=bundle.tiles.tile_px, device=device,
    )  # fmt: skip


def _corner_score(x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
    corner = x[:, :, :8, :8]
    return corner.mean((1, 2, 3)), corner.mean(1)


LOADS: dict[str, Callable[..., Any]] = {"real": load_detector, "host": load_host_work}
"""What loads the detector of a case of `bench screen`; the others have the stand-in for a GPU."""


def load_of(case: str) -> Callable[..., Any]:
    """What loads the detector of a case."""
    return LOADS.get(case, load_stand_in)
