"""Where a tile differs from its closest normal picture: the difference in colours, and an outline on the tile."""

import cv2
import numpy as np
from numpy.typing import NDArray

from uadray.reports.colours import colour
from uadray.reports.pictures import Image

HIGH = 100.0
"""Grey levels of 255 at the dark end of the scale, the same on every page: a nucleus against pale stroma."""

OUTLINED = 0.05
"""Share of the tile that lies within the outline: where it differs most."""

OUTLINE_SIDE = 160
"""Least side of an outlined picture: the line is two pixels wide."""

LEAST_ISLAND = 0.002
"""Share of the tile that an outlined place has at least: about a fifth of a nucleus in a tile of 32 px."""

_SMOOTHING = 1 / 20
_RIM, _LINE = (20, 20, 20), (255, 225, 0)


def difference(x: Image, x_hat: Image) -> NDArray[np.float32]:
    """Mean absolute difference of two pictures' colours, in grey levels: [h, w].

    Raises:
        ValueError: they are not of one size.
    """
    if x.shape != x_hat.shape:
        raise ValueError(f"difference of pictures of {x.shape} and {x_hat.shape}: expected one size")
    levels = np.abs(x.astype(np.float32) - x_hat.astype(np.float32))
    return np.asarray(levels.mean(2), dtype=np.float32)


def difference_picture(values: NDArray[np.float32]) -> Image:
    """A difference in grey levels in the heatmap's colours, on the scale of all pages: dark is `HIGH` or more."""
    return colour(values, low=0, high=HIGH)


def outlined(picture: Image, residual: NDArray[np.float32]) -> Image:
    """A picture, enlarged to `OUTLINE_SIDE`, with a line around the twentieth of it where a residual is highest.

    Args:
        picture: what the detector looked at, uint8 [h, w, 3].
        residual: any numbers by place, [h', w'], of the same field; smoothed by a twentieth of the side first. Of
            one that is everywhere the same nothing is outlined.
    """
    height, width = picture.shape[:2]
    scale = max(1.0, OUTLINE_SIDE / min(height, width))
    size = (round(width * scale), round(height * scale))
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    field = cv2.resize(residual.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    field = cv2.GaussianBlur(field, (0, 0), _SMOOTHING * min(size), borderType=cv2.BORDER_REPLICATE)
    limit = float(np.quantile(field, 1 - OUTLINED))
    inside = (field > limit).astype(np.uint8)
    if float(field.max()) - float(np.median(field)) <= 1e-6 * max(1.0, abs(float(field.max()))):
        return np.ascontiguousarray(large)
    lines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    lines = [line for line in lines if cv2.contourArea(line) >= LEAST_ISLAND * inside.size]
    for ink, thickness in ((_RIM, 4), (_LINE, 2)):  # yellow on a dark rim: seen on nuclei and on glass
        large = cv2.drawContours(large, lines, -1, ink, thickness)
    return np.asarray(large, dtype=np.uint8)
