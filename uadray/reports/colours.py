"""The colour scale of heatmaps: perceptually uniform, pale (low) to dark (high), the same order without colour."""

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uadray.reports.pictures import Image

TINT = (0.35, 0.72)
"""Opacity of the colour at the low and at the high end: normal tissue stays nearly grey, nuclei stay recognisable under
the strongest colour (judged by eye on H&E mosaics)."""


def colour(values: NDArray[Any], *, low: float, high: float) -> Image:
    """Colour any numbers, such as a residual map [h, w], on the scale of the heatmap: uint8 [h, w, 3].

    Where `low` equals `high` everything above is dark and the rest is pale.

    Raises:
        ValueError: `low` is above `high`, or one is not a finite number.
    """
    return scale_colours()[np.rint(share(values, low=low, high=high) * 255).astype(np.uint8)]


@cache
def scale_colours() -> Image:
    """The colour scale, lowest first: RGB uint8 [256, 3]. Inferno, pale to dark, without its white and black ends."""
    steps = np.rint(np.linspace(242, 38, 256)).astype(np.uint8)
    ramp = cv2.applyColorMap(steps[:, None], cv2.COLORMAP_INFERNO)
    colours = np.ascontiguousarray(ramp[:, 0, ::-1])
    colours.setflags(write=False)
    return colours


def legend_colours(count: int = 9) -> list[str]:
    """`count` evenly spaced colours as they look over tissue of medium grey, lowest first, as `#rrggbb`."""
    steps = np.linspace(0, 1, count)[None]
    tinted = tint(np.full((1, count, 3), 190, np.uint8), steps, low=0, high=1)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in tinted[0].tolist()]


def tint(grey: Image, painted: NDArray[Any], *, low: float, high: float) -> Image:
    """Lay the colours of numbers [h, w] over a grey picture of the same size; where a number is NaN, grey remains."""
    opacity = TINT[0] + (TINT[1] - TINT[0]) * share(painted, low=low, high=high)[..., None]
    tinted = (1 - opacity) * grey + opacity * colour(painted, low=low, high=high)
    return np.where(np.isnan(painted)[..., None], grey, np.rint(tinted).astype(np.uint8))


def share(values: NDArray[Any], *, low: float, high: float) -> NDArray[np.float64]:
    """Where values lie between `low` (0) and `high` (1); what is no number counts as `low`."""
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"colour scale from {low} to {high}: expected two finite numbers, the lower first")
    numbers = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=low, posinf=high, neginf=low)
    return np.clip((numbers - low) / (high - low), 0, 1) if high > low else (numbers > low).astype(np.float64)
