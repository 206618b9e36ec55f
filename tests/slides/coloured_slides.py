"""A slide that is another colour in each place, and its pixels as OpenSlide has them."""

from pathlib import Path

import numpy as np
import openslide


def coloured_picture(height: int, width: int) -> np.ndarray:
    """Smooth and different everywhere, so that a pixel's place shows in its colour."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 // width + 20, y * 200 // height + 20, (x + y) % 97 + 60], axis=-1).astype(np.uint8)


def openslide_pixels(path: Path, level: int, x0: int, y0: int, side: int) -> np.ndarray:
    with openslide.OpenSlide(path) as handle:
        return np.asarray(handle.read_region((x0, y0), level, (side, side)))[..., :3]
