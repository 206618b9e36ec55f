"""Area resampling against what is known: identity, OpenCV, brute force, constants."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.slides.resample import resample

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def _area_average(source: np.ndarray, x0: float, y0: float, step: float) -> np.ndarray:
    """The mean colour of a square of `step` source pixels, pixel by pixel."""
    total, area = np.zeros(3), 0.0
    for y in range(int(np.floor(y0)), int(np.ceil(y0 + step))):
        for x in range(int(np.floor(x0)), int(np.ceil(x0 + step))):
            part = (min(x + 1, x0 + step) - max(x, x0)) * (min(y + 1, y0 + step) - max(y, y0))
            total += part * source[y, x]
            area += part
    return total / area


@pytest.mark.parametrize("offset", [(0, 0), (5, 9), (32, 32)])
def test_identity_copies(offset: tuple[int, int]) -> None:
    out = resample(NOISE, offset_px=offset, step_px=(1.0, 1.0), side_px=32)
    np.testing.assert_array_equal(out, NOISE[offset[1] : offset[1] + 32, offset[0] : offset[0] + 32])
    assert out.flags.c_contiguous
    assert not np.shares_memory(out, NOISE) or out.base is None


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_integer_factors_equal_opencv(factor: int) -> None:
    side = 64 // factor
    source = NOISE[: side * factor, : side * factor]
    expected = cv2.resize(source, (side, side), interpolation=cv2.INTER_AREA)
    out = resample(source, offset_px=(0, 0), step_px=(factor, factor), side_px=side)
    assert np.abs(out.astype(int) - expected).max() <= (1 if factor == 2 else 0), "only ties may round otherwise"
    means = source.reshape(side, factor, side, factor, 3).mean((1, 3))
    assert np.abs(out - means).max() <= 0.5 + 1e-4


@settings(max_examples=30, deadline=None)
@given(x=st.floats(0, 8), y=st.floats(0, 8), step=st.floats(1, 5))
def test_equals_brute_force(x: float, y: float, step: float) -> None:
    out = resample(NOISE, offset_px=(x, y), step_px=(step, step), side_px=6)
    for row, column in ((0, 0), (2, 5), (5, 3)):
        expected = _area_average(NOISE, x + column * step, y + row * step, step)
        np.testing.assert_allclose(out[row, column], expected, atol=0.51)


@settings(max_examples=60, deadline=None)
@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    x=st.floats(0, 3),
    y=st.floats(0, 3),
    step=st.floats(0.5, 5),
    side=st.integers(1, 12),
)
def test_constants_stay_constant(colour: tuple[int, int, int], x: float, y: float, step: float, side: int) -> None:
    """Also at the source's very edge: no black seeps in."""
    length = int(np.ceil(max(x, y) + side * step)) + 1
    source = np.full((length, length, 3), colour, np.uint8)
    out = resample(source, offset_px=(x, y), step_px=(step, step), side_px=side)
    assert out.shape == (side, side, 3)
    assert (out == np.array(colour)).all()


def test_half_pixel_offset_is_the_mean_of_neighbours() -> None:
    source = np.zeros((1 + 1, 4, 3), np.uint8)
    source[:, :] = np.array([0, 10, 30, 100])[None, :, None]
    out = resample(source, offset_px=(0.5, 0), step_px=(1.0, 1.0), side_px=2)
    assert out[:, :, 0].tolist() == [[5, 20], [5, 20]]


def test_upsampling_is_bilinear() -> None:
    """Step 0.5 from pixel 1: centres at 1.25 and 1.75, a quarter of a pixel to either side of the centre 1.5."""
    source = np.repeat(np.array([0, 40, 80, 120], np.uint8)[None, :, None], 4, axis=0).repeat(3, axis=2)
    out = resample(source, offset_px=(1, 1), step_px=(0.5, 0.5), side_px=4)
    assert out[0, :, 0].tolist() == [30, 50, 70, 90]
    assert (out == out[0]).all()


def test_upsampling_equals_opencv_inside() -> None:
    big = cv2.resize(NOISE, (128, 128), interpolation=cv2.INTER_LINEAR)
    out = resample(NOISE, offset_px=(8, 8), step_px=(0.5, 0.5), side_px=64)
    assert np.abs(out.astype(int) - big[16:80, 16:80]).max() <= 1


def test_a_mean_does_not_depend_on_where_the_grid_starts() -> None:
    """No drift: shifted windows of a linear ramp differ by exactly the shift."""
    ramp = np.repeat(np.linspace(0, 250, 64)[None, :, None], 64, axis=0).repeat(3, axis=2).round().astype(np.uint8)
    at = [
        resample(ramp, offset_px=(x, 0), step_px=(2.5, 2.5), side_px=8)[0, :, 0].astype(float) for x in (0.0, 1.25, 2.5)
    ]
    slope = 250 / 63
    np.testing.assert_allclose(at[1] - at[0], 1.25 * slope, atol=1.1)
    np.testing.assert_allclose(at[2][:-1], at[0][1:], atol=0)


def _weights(offset: float, step: float, side: int, length: int) -> np.ndarray:
    """[side, length] in double precision; see `resample` for what happens at steps below 1."""
    centre, half = offset + (np.arange(side) + 0.5) * step, max(step, 1.0) / 2
    low, high, pixel = (centre - half)[:, None], (centre + half)[:, None], np.arange(length)[None, :]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return overlap / overlap.sum(1, keepdims=True)


def _exact(source: np.ndarray, x: float, y: float, step: float, side: int) -> np.ndarray:
    """Area averages, not rounded: [side, side, 3]."""
    rows, columns = (_weights(at, step, side, source.shape[i]) for i, at in ((0, y), (1, x)))
    return np.stack([rows @ source[..., c] @ columns.T for c in range(3)], axis=-1)


STEPS = st.one_of(
    st.floats(0.9, 8),
    st.floats(0.99, 1.01),
    st.floats(1, 1.003),
    st.sampled_from([0.99009900990099, 0.997, 1.0, 1.002004008016032, 1.003, 1.98019801980198, 2.0, 4.0, 8.0]),
)
OFFSETS = st.one_of(st.floats(0, 2), st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0]))


@settings(max_examples=100, deadline=None)
@given(step=STEPS, x=OFFSETS, y=OFFSETS, side=st.integers(8, 40))
def test_all_steps_and_offsets_give_area_averages(step: float, x: float, y: float, side: int) -> None:
    _check(step, x, y, side)


@settings(max_examples=25, deadline=None)
@given(step=st.floats(1, 1.004), side=st.sampled_from([255, 256, 257]))
def test_steps_near_one_give_area_averages(step: float, side: int) -> None:
    """Interpolation drifts nowhere, and it is not taken where OpenCV would copy."""
    _check(step, 0.0, 1.0, side)


def _check(step: float, x: float, y: float, side: int) -> None:
    """On noise, which is the hardest: means by half a grey level on average, by two at the most."""
    length = int(np.ceil(2 + side * step)) + 1
    source = np.random.default_rng(side).integers(0, 256, (length, length, 3), dtype=np.uint8)
    out = np.zeros((side, side, 3), np.uint8)
    found = resample(source, offset_px=(x, y), step_px=(step, step), side_px=side, out=out)
    error = np.abs(found - _exact(source, x, y, step, side))
    assert found is out
    assert error.mean() <= 0.5
    assert error.max() <= 2
    white = np.full_like(source, 255)
    assert (resample(white, offset_px=(x, y), step_px=(step, step), side_px=side) == 255).all()


@settings(max_examples=60, deadline=None)
@given(step=STEPS, x=OFFSETS, y=OFFSETS)
def test_nothing_is_shifted(step: float, x: float, y: float) -> None:
    """The centre of a soft spot, measured in the result, lies where it lies in the source, to 0.05 output pixels."""
    side = 48
    length = int(np.ceil(2 + side * step)) + 1
    at = np.arange(length) + 0.5
    centre_x, centre_y, width = x + 0.45 * side * step, y + 0.55 * side * step, 0.1 * side * step
    spot = 250 * np.exp(-((at - centre_x) ** 2) / (2 * width**2) - ((at - centre_y) ** 2)[:, None] / (2 * width**2))
    source = np.repeat(np.rint(spot).astype(np.uint8)[..., None], 3, axis=2)
    found = resample(source, offset_px=(x, y), step_px=(step, step), side_px=side)[..., 0].astype(float)
    place = (np.arange(side) + 0.5) * step
    for sums, offset, centre in ((found.sum(0), x, centre_x), (found.sum(1), y, centre_y)):
        assert abs(offset + (sums * place).sum() / sums.sum() - centre) <= 0.05 * step


ONE_THREAD = """
import time, cv2, numpy as np
from uadray.slides.resample import resample
cv2.setNumThreads(4)
source = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), dtype=np.uint8)
for step, x in ((2.0, 0.0), (1.002, 0.0), (1.5, 0.25)):
    time.sleep(0.5)  # threads that imports have left may spin for a while
    process, thread = time.process_time(), time.thread_time()
    for _ in range(10):
        resample(source, offset_px=(x, 0), step_px=(step, step), side_px=1024)
    thread = time.thread_time() - thread
    print((time.process_time() - process - thread) / thread)
"""


def test_a_large_tile_takes_one_thread() -> None:
    """Whatever OpenCV is set to: a whole step, one near 1, and one between pixels. In a process without other work."""
    done = subprocess.run([sys.executable, "-c", ONE_THREAD], capture_output=True, text=True, check=True)
    others = [float(line) for line in done.stdout.split()]
    assert len(others) == 3
    assert max(others) <= 0.25
