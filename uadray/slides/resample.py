"""Area resampling with origins between pixels, so that a tile has exactly the mpp that it is said to have.

Each output pixel is the mean of the source area under it. This is exact for shrinking, free of aliasing, and changes
nothing where no resampling is needed. It is done by one small matrix along each side.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

KEPT_WEIGHTS = 2**18
"""A matrix of more weights is not kept for the next tile: 256 matrices of so many are 256 MB, and the matrix of a 4096
px tile is 60 times as large."""


def resample(
    source: npt.NDArray[np.uint8], *, offset_px: tuple[float, float], step_px: tuple[float, float], side_px: int
) -> npt.NDArray[np.uint8]:
    """A square of `source`, resampled to `side_px` pixels a side.

    Args:
        source: [h, w, 3]; must cover the square.
        offset_px: x and y of the square's corner in source pixels.
        step_px: source pixels per output pixel, along x and y.
        side_px: pixels of the result.

    Returns:
        [side_px, side_px, 3].
    """
    x, y = (round(float(o), 6) for o in offset_px)
    step_x, step_y = (round(float(s), 9) for s in step_px)
    if step_x == step_y == 1 and x.is_integer() and y.is_integer():
        return np.ascontiguousarray(source[int(y) : int(y) + side_px, int(x) : int(x) + side_px])
    if x.is_integer() and y.is_integer() and _opencv_is_exact(step_x, side_px) and _opencv_is_exact(step_y, side_px):
        return _by_opencv(source[int(y) :, int(x) :], step_x, step_y, side_px)
    height, width, channels = source.shape
    rows, columns = _weights(y, step_y, side_px, height), _weights(x, step_x, side_px, width)
    flat = rows @ source.reshape(height, width * channels).astype(np.float32)  # [side, w * 3]
    turned = flat.reshape(side_px, width, channels).transpose(1, 0, 2).reshape(width, side_px * channels)
    result = (columns @ turned).reshape(side_px, side_px, channels).transpose(1, 0, 2)
    return np.asarray(np.clip(np.rint(result), 0, 255), dtype=np.uint8)


def _by_opencv(source: npt.NDArray[np.uint8], step_x: float, step_y: float, side: int) -> npt.NDArray[np.uint8]:
    """The same averages by OpenCV, for an origin on whole source pixels: 2 to 6 times as fast as by the matrices."""
    width, height = (math.ceil(side * step - 1e-6) for step in (step_x, step_y))
    resized = cv2.resize(source[:height, :width], None, fx=1 / step_x, fy=1 / step_y, interpolation=cv2.INTER_AREA)
    return np.asarray(resized[:side, :side], dtype=np.uint8)


@lru_cache(maxsize=256)
def _opencv_is_exact(step: float, side: int) -> bool:
    """Whether OpenCV gives the same averages along a side.

    It does not where an output pixel covers less than a thousandth of a source pixel, which OpenCV leaves out, nor
    where the result has as many pixels as the source, which OpenCV copies. It may round halves up instead of to even.
    """
    edges = np.arange(1, side + 1) * step
    slivers = np.abs(edges - np.rint(edges))
    return bool(edges[-1] * (1 - 1 / step) > 0.6 and ((slivers < 1e-7) | (slivers > 1e-3)).all())


def _weights(offset: float, step: float, side: int, length: int) -> npt.NDArray[np.float32]:
    """The matrix of `_new_weights`, kept for the next tile unless it is large."""
    return (_kept_weights if side * length <= KEPT_WEIGHTS else _new_weights)(offset, step, side, length)


def _new_weights(offset: float, step: float, side: int, length: int) -> npt.NDArray[np.float32]:
    """[side, length] matrix whose row i averages source pixels from `offset + i * step` to `offset + (i + 1) * step`.

    Where the output is finer than the source (`step` < 1), row i averages over one source pixel about the centre of the
    output pixel, which is bilinear interpolation.
    """
    centre = offset + (np.arange(side) + 0.5) * step
    half = max(step, 1.0) / 2
    low, high = (centre - half)[:, None], (centre + half)[:, None]
    pixel = np.arange(length)[None, :]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    total = overlap.sum(1, keepdims=True)
    return np.asarray(overlap / np.where(total == 0, 1, total), dtype=np.float32)


_kept_weights = lru_cache(maxsize=256)(_new_weights)
