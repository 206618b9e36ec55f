"""Layers of the growing and style-based generators against numpy, scipy and numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.equalised import Blur, Conv2d, Linear, minibatch_deviation, pixel_norm


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rate", [1.0, 0.01])
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
def test_a_linear_layer_is_one_with_scaled_weights(rate: float, gain: float) -> None:
    layer = Linear(12, 5, gain=gain, rate=rate, bias=0.3)
    nn.init.normal_(layer.weight)
    plain = nn.Linear(12, 5)
    plain.load_state_dict({"weight": layer.weight * gain * rate / 12**0.5, "bias": torch.full((5,), 0.3)})
    torch.testing.assert_close(layer(_noise(4, 12)), plain(_noise(4, 12)))


def test_a_convolution_is_one_with_scaled_weights() -> None:
    layer = Conv2d(6, 5, 3, stride=2, padding=0)
    plain = nn.Conv2d(6, 5, 3, stride=2)
    plain.load_state_dict({"weight": layer.weight * (2 / 54) ** 0.5, "bias": torch.zeros(5)})
    torch.testing.assert_close(layer(_noise(2, 6, 9, 9)), plain(_noise(2, 6, 9, 9)))


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_weights_start_as_he_draws_them_whatever_the_rate(rate: float) -> None:
    torch.manual_seed(0)
    layer = Conv2d(64, 64, 3, rate=rate)
    assert (layer.weight * layer.scale).std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_a_step_of_adam_is_as_large_as_rate_and_fan_in_say() -> None:
    """Adam moves each stored weight by its rate, so the weight that multiplies by rate * gain * multiplier / root."""
    layer = Linear(16, 4, gain=1.0, rate=0.01)
    before = (layer.weight * layer.scale).detach()
    layer(_noise(8, 16)).square().sum().backward()
    torch.optim.Adam(layer.parameters(), lr=0.5).step()
    moved = (layer.weight * layer.scale).detach() - before
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.5 * 0.01 / 4), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 4, 4)])
def test_pixel_norm_by_numpy(shape: tuple[int, ...]) -> None:
    x = _noise(*shape).numpy()
    expected = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(pixel_norm(torch.from_numpy(x)).numpy(), expected, rtol=1e-5)


def test_minibatch_deviation_by_hand() -> None:
    """Pictures 0 and 2 are one group, 1 and 3 the other: deviations 1 and 3 at every place."""
    x = torch.tensor([1.0, 0.0, 3.0, 6.0]).view(4, 1, 1, 1).expand(4, 2, 2, 2)
    y = minibatch_deviation(x, group=2)
    assert torch.equal(y[:, :2], x)
    torch.testing.assert_close(y[:, 2], torch.tensor([1.0, 3.0, 1.0, 3.0]).view(4, 1, 1).expand(4, 2, 2))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 7, 8, 11, 16])
def test_minibatch_deviation_of_any_batch_by_numpy(n: int) -> None:
    x = _noise(n, 3, 2, 2).numpy()
    groups = math.ceil(n / 4)
    of_group = [x[[i for i in range(n) if i % groups == g]].std(axis=0).mean() for g in range(groups)]
    y = minibatch_deviation(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(y[:, 3, 0, 0], [of_group[i % groups] for i in range(n)], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("taps", [(1, 2, 1), (1, 4, 6, 4, 1), (1, 2, 3)])
def test_a_blur_is_scipys(taps: tuple[int, ...]) -> None:
    """Torch correlates and scipy convolves: the kernel is turned round for it."""
    x = _noise(2, 3, 6, 7)
    kernel = np.outer(taps, taps)[::-1, ::-1] / sum(taps) ** 2
    expected = np.stack([[convolve(m, kernel, mode="constant") for m in maps] for maps in x.numpy()])
    np.testing.assert_allclose(Blur(taps)(x, gain=1.0).numpy(), expected, atol=1e-6)


def test_blurring_up_is_doubling_and_the_narrower_blur() -> None:
    """(1, 3, 3, 1) is (1, 1) * (1, 2, 1), the borders included (Karras et al. 2019 do it in two passes)."""
    x = _noise(2, 3, 4, 4)
    torch.testing.assert_close(Blur((1, 3, 3, 1)).up(x), Blur((1, 2, 1))(F.interpolate(x, scale_factor=2)))


def test_blurring_down_is_the_narrower_blur_and_averaging() -> None:
    x = _noise(2, 3, 8, 8)
    torch.testing.assert_close(Blur((1, 3, 3, 1)).down(x), F.avg_pool2d(Blur((1, 2, 1))(x), 2))


def test_up_against_scipy() -> None:
    x = _noise(5, 6).numpy()
    spread = np.zeros((10, 12), np.float32)
    spread[::2, ::2] = x
    kernel = np.zeros((5, 5), np.float32)  # odd, as scipy centres it: a value reaches one place before it and two after
    kernel[1:, 1:] = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
    expected = convolve(spread, kernel, mode="constant")
    got = Blur((1, 3, 3, 1)).up(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_constants_keep_their_level_inside() -> None:
    x = torch.full((1, 2, 8, 8), 3.0)
    blur = Blur((1, 3, 3, 1))
    assert blur.up(x)[..., 2:-2, 2:-2].unique().tolist() == [3.0]
    assert blur.down(x)[..., 1:-1, 1:-1].unique().tolist() == [3.0]


def test_all_can_be_differentiated_twice() -> None:
    """As R1 and the gradient penalty need; against finite differences."""
    x = _noise(4, 1, 2, 2).double().requires_grad_()
    blur = Blur((1, 3, 3, 1)).double()

    def through(t: Tensor) -> Tensor:
        return pixel_norm(minibatch_deviation(blur.down(blur.up(t))))

    assert torch.autograd.gradgradcheck(through, (x,))
