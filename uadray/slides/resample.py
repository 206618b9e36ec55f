"""Area resampling with origins between pixels, so that a tile has exactly the mpp that it is said to have.

Each output pixel is the mean of the source area under it, to half a grey level. This is free of aliasing, shifts
nothing, and changes nothing where no resampling is needed. It is done by one sparse matrix along each side: a row of it
has `ceil(step) + 1` weights at the most. Two cases that are common are left to OpenCV, which is faster in them: whole
steps, and steps so near 1 that interpolation is as good.

Nothing here uses a second thread, whatever BLAS and OpenCV are set to: a node has as many readers as CPUs.
"""

import math
import threading
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]

NEAR_ONE = 0.003
"""Steps above 1 by no more are interpolated. On noise, the worst picture for it, the result then differs
from area averages by 0.3 grey levels on average and by 2 at the most; on tissue by 1 at the most."""

ONE_THREAD_PX = 2**16
"""OpenCV resizes to so many pixels in the calling thread, and uses others only for more."""

KEPT_VALUES = 2**22
"""A thread keeps no longer array for the next tile: 16 MB."""


def resample(
    source: Rgb, *, offset_px: tuple[float, float], step_px: tuple[float, float], side_px: int, out: Rgb | None = None
) -> Rgb:
    """A square of `source`, resampled to `side_px` pixels a side.

    Where the output is finer than the source (step < 1), an output pixel is the mean over one source pixel about its
    centre, which is bilinear interpolation.

    Args:
        source: [h, w, 3]; must cover the square.
        offset_px: x and y of the square's corner in source pixels.
        step_px: source pixels per output pixel, along x and y.
        side_px: pixels of the result.
        out: where the result is written to, [side_px, side_px, 3], contiguous; a new array unless given.

    Returns:
        [side_px, side_px, 3].
    """
    out = np.empty((side_px, side_px, 3), np.uint8) if out is None else out
    x, y = (round(float(o), 6) for o in offset_px)
    steps = [round(float(s), 9) for s in step_px]
    if x.is_integer() and y.is_integer():
        whole = source[int(y) :, int(x) :]
        if all(step.is_integer() for step in steps):
            _whole_steps(whole, int(steps[0]), int(steps[1]), out)
            return out
        if all(_is_interpolated(step, side_px) for step in steps):
            width, height = (math.ceil(side_px * step) for step in steps)
            cv2.resize(whole[:height, :width], None, dst=out, fx=1 / steps[0], fy=1 / steps[1])
            return out
    _by_matrices(source, (x, y), (steps[0], steps[1]), out)
    return out


def _is_interpolated(step: float, side: int) -> bool:
    """Whether interpolation by OpenCV is near enough to the means, and gives `side` pixels of more in the source."""
    length = math.ceil(side * step)
    return 0 < step - 1 <= NEAR_ONE and round(length / step) == side < length and side**2 <= ONE_THREAD_PX


def _whole_steps(source: Rgb, step_x: int, step_y: int, out: Rgb) -> None:
    """Write means of `step_y` x `step_x` pixels to `out`, some rows at a time so that OpenCV uses one thread."""
    side = len(out)
    rows = max(1, ONE_THREAD_PX // side)
    for top in range(0, side, rows):
        n = min(rows, side - top)
        part = source[top * step_y : (top + n) * step_y, : side * step_x]
        if step_x == step_y == 1:
            out[top : top + n] = part
        else:
            cv2.resize(part, (side, n), dst=out[top : top + n], interpolation=cv2.INTER_AREA)


class _Weights(NamedTuple):
    """A sparse matrix, row by row: where each row begins, and the columns and values of its weights."""

    begins: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


class _Scratch(threading.local):
    """Two arrays of each thread for what is between source and result: fresh memory costs more than the sums do."""

    def __init__(self) -> None:
        self._kept = [np.empty(0, np.float32), np.empty(0, np.float32)]

    def take(self, number: int, size: int) -> npt.NDArray[np.float32]:
        """The first or second array, with room for `size` values at least; a large one is not kept."""
        array = self._kept[number]
        if array.size < size:
            array = np.empty(size, np.float32)
            if array.size <= KEPT_VALUES:
                self._kept[number] = array
        return array


_SCRATCH = _Scratch()


def _by_matrices(source: Rgb, offset_px: tuple[float, float], step_px: tuple[float, float], out: Rgb) -> None:
    """Write the same means to `out`, for any offset and step."""
    (height, width, channels), side = source.shape, len(out)
    a = _SCRATCH.take(0, max(height, side) * width * channels)
    b = _SCRATCH.take(1, side * max(width, side) * channels)
    np.copyto(a[: source.size].reshape(source.shape), source)
    _times(_weights(offset_px[1], step_px[1], side, height), a, b, width * channels)  # [side, w * 3]
    turned = a[: side * width * channels].reshape(width, side, channels)
    cv2.transpose(b[: turned.size].reshape(side, width, channels), dst=turned)
    _times(_weights(offset_px[0], step_px[0], side, width), a, b, side * channels)  # [side, side * 3]
    means = b[: out.size].reshape(side, side, channels)
    rounded = a.view(np.uint8)[: out.size].reshape(out.shape)
    cv2.convertScaleAbs(means, dst=rounded)  # halves to even, as `numpy.rint`
    cv2.transpose(rounded, dst=out)


def _times(weights: _Weights, source: npt.NDArray[np.float32], out: npt.NDArray[np.float32], width: int) -> None:
    """Write the product of a matrix and `source`, [length, width], to `out`, [side, width]; both are flat.

    The product of `scipy.sparse` itself gives a new array each time.
    """
    from scipy.sparse._sparsetools import csr_matvecs  # 0.1 s and 20 MB, which slides of the model's mpp are spared

    side = len(weights.begins) - 1
    out[: side * width] = 0
    csr_matvecs(side, len(source) // width, width, *weights, source, out)


@lru_cache(maxsize=512)
def _weights(offset: float, step: float, side: int, length: int) -> _Weights:
    """Matrix [side, length] whose row i averages from `offset + i * step` to `offset + (i + 1) * step`."""
    centre = offset + (np.arange(side) + 0.5) * step
    half = max(step, 1.0) / 2
    low, high = (centre - half)[:, None], (centre + half)[:, None]
    first = np.floor(low)
    pixel = first + np.arange(int(np.ceil(high - first).max()))
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    overlap[(pixel < 0) | (pixel >= length)] = 0
    weights = overlap / overlap.sum(1, keepdims=True)
    begins = np.concatenate([[0], np.cumsum((weights > 0).sum(1))])
    return _Weights(
        begins.astype(np.int32), pixel[weights > 0].astype(np.int32), weights[weights > 0].astype(np.float32)
    )
