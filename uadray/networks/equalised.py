"""Layers of the growing and style-based generators. https://arxiv.org/abs/1710.10196 (Karras et al. 2018, section 4),
https://arxiv.org/abs/1812.04948 (Karras et al. 2019, section 2 and appendix C).

Different from the papers: a batch that is no multiple of the group of the minibatch standard deviation works, see
`minibatch_deviation`.
"""  # noqa: D205

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HE = math.sqrt(2)
"""Gain of He's initialisation, for layers that a leaky ReLU follows; 1 where none does."""

GROUP = 4
"""Pictures whose deviation is one number (Karras et al. 2019, appendix C)."""


class Linear(nn.Module):
    """Fully connected layer with equalised learning rate (Karras et al. 2018, section 4.1).

    Weights are drawn from N(0, 1) and multiplied at run time by gain / sqrt(inputs): Adam, whose steps do not depend on
    the gradient's scale, then moves all layers at one relative pace.

    Args:
        inputs: features in.
        outputs: features out.
        gain: see `HE`.
        rate: multiplier of the learning rate; outputs at the start do not depend on it (StyleGAN's mapping: 0.01).
        bias: what each starts from; None for a layer without one.
    """

    def __init__(
        self, inputs: int, outputs: int, *, gain: float = HE, rate: float = 1.0, bias: float | None = 0.0
    ) -> None:
        super().__init__()
        self.scale, self.rate = gain * rate / math.sqrt(inputs), rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = None if bias is None else nn.Parameter(torch.full((outputs,), bias / rate))

    def forward(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        """The layer's output."""
        return F.linear(x, self.weight * self.scale, _slowed(self.bias, self.rate))


class Conv2d(nn.Module):
    """Convolution with equalised learning rate; arguments as of `Linear`.

    Args:
        channels_in: of the maps that come in.
        channels_out: of those that go out.
        side: of the kernel.
        padding: zeros on each border; None for as many as keep the side of the map.
        stride: of the kernel.
        gain: see `HE`.
        rate: multiplier of the learning rate.
        bias: what each starts from; None for a layer without one.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        side: int,
        *,
        padding: int | None = None,
        stride: int = 1,
        gain: float = HE,
        rate: float = 1.0,
        bias: float | None = 0.0,
    ) -> None:
        super().__init__()
        self.padding, self.stride = side // 2 if padding is None else padding, stride
        self.scale, self.rate = gain * rate / math.sqrt(channels_in * side**2), rate
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, side, side) / rate)
        self.bias = None if bias is None else nn.Parameter(torch.full((channels_out,), bias / rate))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The layer's output."""
        bias = _slowed(self.bias, self.rate)
        return F.conv2d(x, self.weight * self.scale, bias, stride=self.stride, padding=self.padding)


def _slowed(bias: Tensor | None, rate: float) -> Tensor | None:
    """The bias times the rate; most layers have 1, and are spared the product."""
    return bias if bias is None or rate == 1 else bias * rate


def pixel_norm(x: Float[Tensor, "n c *side"]) -> Float[Tensor, "n c *side"]:
    """Each pixel's vector divided by its root mean square over the channels (Karras et al. 2018, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def minibatch_deviation(x: Float[Tensor, "n c h w"], *, group: int = GROUP) -> Float[Tensor, "n c1 h w"]:
    """X with one more channel: how much the pictures of a group differ (Karras et al. 2018, section 3).

    The standard deviation over the group at each position and channel, averaged to one number a group. With m groups,
    picture i is in group i mod m. There are ceil(n / group) of them: where n is no multiple of `group`, their sizes
    differ by one at the most; a batch of less than `group` is one group, and a lone picture's deviation is next to 0.
    """
    n, (h, w) = len(x), x.shape[2:]
    groups = -(-n // group)
    if n % group == 0:
        deviations = _mean_deviation(x.unflatten(0, (group, groups)))  # [groups]
    else:
        deviations = torch.stack([_mean_deviation(x[i::groups].unsqueeze(1))[0] for i in range(groups)])
    each = deviations.repeat(-(-n // groups))[:n]
    return torch.cat([x, each.view(n, 1, 1, 1).expand(n, 1, h, w)], dim=1)


def _mean_deviation(x: Float[Tensor, "size groups c h w"]) -> Float[Tensor, " groups"]:
    """The root of the variance (not corrected for the group's size, as published), averaged over c, h, w."""
    variance = (x - x.mean(dim=0, keepdim=True)).square().mean(dim=0)
    return (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))


class Blur(nn.Module):
    """A low-pass filter along rows and columns, zeros beyond the borders (Karras et al. 2019, appendix C; Zhang 2019).

    Each direction is a product with a matrix that has the filter in every row: a GPU does that at the pace of its
    memory, and its second derivative is two more products, where that of a convolution of each channel by itself is
    one convolution a channel.

    Args:
        taps: of the filter, divided by their sum: (1, 2, 1), or (1, 3, 3, 1), which is (1, 2, 1) after each value has
            been doubled.
    """

    def __init__(self, taps: tuple[int, ...] = (1, 2, 1)) -> None:
        super().__init__()
        self.taps = taps

    def forward(
        self, x: Float[Tensor, "n c h w"], *, padding: int | None = None, gain: float = 1.0
    ) -> Float[Tensor, "n c h2 w2"]:
        """X filtered.

        Args:
            x: maps.
            padding: zeros on each border; None for half the taps, which keeps the side where their number is odd.
            gain: by which the result is multiplied (4 after a transposed convolution of stride 2, which spreads each
                value over four).
        """
        pad = len(self.taps) // 2 if padding is None else padding
        return _along_both(x, *(_band(x, side, self.taps, pad, 1, math.sqrt(gain)) for side in x.shape[2:]))

    def up(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """X at twice the side: zeros between its values, filtered; the level stays. An even number of taps."""
        pad = len(self.taps) // 2 - 1
        return _along_both(x, *(_band(x, 2 * side, self.taps, pad, 2, 2.0).T for side in x.shape[2:]))

    def down(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """X at half the side: filtered, every second value kept. An even number of taps, an even side."""
        pad = len(self.taps) // 2 - 1
        return _along_both(x, *(_band(x, side, self.taps, pad, 2, 1.0) for side in x.shape[2:]))


def _along_both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`rows` x `columns`^T of each channel of x [n, c, h, w]; as it lies in memory the result is `channels_last`."""
    n, c, h, w = x.shape
    lines = x.permute(0, 2, 3, 1).reshape(n * h, w, c)
    narrow = torch.bmm(columns.expand(n * h, -1, -1), lines).view(n, h, -1)
    return torch.bmm(rows.expand(n, -1, -1), narrow).view(n, len(rows), len(columns), c).permute(0, 3, 1, 2)


def _band(x: Tensor, side: int, taps: tuple[int, ...], padding: int, stride: int, gain: float) -> Tensor:
    """[to, side] The filter in every row, each row `stride` further on; of the type and on the device of x."""
    return _made_band(side, taps, padding, stride, gain, x.dtype, x.device)


@lru_cache(maxsize=512)  # a step asks for the same ones every time
@torch.inference_mode(False)  # a derivative may go through it later
def _made_band(
    side: int, taps: tuple[int, ...], padding: int, stride: int, gain: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    starts = torch.arange(-padding, side + padding - len(taps) + 1, stride)
    at = torch.arange(side) - starts[:, None]  # which of the taps
    band = torch.tensor(taps)[at.clamp(0, len(taps) - 1)] * ((at >= 0) & (at < len(taps))) * (gain / sum(taps))
    aligned = F.pad(band, (0, -side % 8)).to(device, dtype)  # products of bfloat16 are slower where rows are not
    return aligned[:, :side]
