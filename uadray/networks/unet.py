"""The U-Net that says what noise an image has, given how far it was diffused.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, appendix B: residual blocks with group normalisation, the time step
added in each of them by way of a sinusoidal embedding, self-attention at one resolution, skips from every block on the
way down to one on the way up. Channels are those of their network for 32 px: as many at full resolution, twice as many
below (1, 2, 2, 2).

Different: 8 groups of channels are normalised, not 32, for narrow networks; there is no dropout.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.layers import group_norm

PERIOD = 10_000.0
"""Of the slowest wave of the embedding (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5)."""

TIME_FACTOR = 4
"""Of the width: the length of the embedding that blocks see (Ho et al. 2020)."""


class UNet(nn.Module):
    """Noise of a diffused image.

    Args:
        width: channels at full resolution, a multiple of 4.
        halvings: how often the side is halved; it must be a multiple of 2 ** halvings.
        blocks: residual blocks at each resolution on the way down, one more on the way up.
        attention_halvings: from so many halvings on there is self-attention; more than `halvings` for none but that
            of the lowest resolution, which the paper has too.
    """

    def __init__(self, *, width: int, halvings: int, blocks: int, attention_halvings: int) -> None:
        super().__init__()
        self.width, time_dim = width, TIME_FACTOR * width
        self.time = nn.Sequential(nn.Linear(width, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        widths = [width, *[2 * width] * halvings]
        down, skips, channels = list[nn.Module](), [width], width
        for level, wider in enumerate(widths):
            for _ in range(blocks):
                down.append(Stage(channels, wider, time_dim, attends=level >= attention_halvings))
                channels = wider
                skips.append(channels)
            if level < halvings:
                down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)
        up = list[nn.Module]()
        self.middle = nn.ModuleList(
            [Stage(channels, channels, time_dim, attends=True), Stage(channels, channels, time_dim, attends=False)]
        )
        for level, narrower in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                up.append(Stage(channels + skips.pop(), narrower, time_dim, attends=level >= attention_halvings))
                channels = narrower
            if level:
                up.append(Doubling(channels))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.to_noise = nn.Sequential(group_norm(channels), nn.SiLU(), _zeroed(nn.Conv2d(channels, 3, 3, padding=1)))

    def forward(self, x: Float[Tensor, "n 3 h w"], t: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
        """The noise in x, each diffused to its time t, 0 to 1000."""
        time = self.time(embedded(t, self.width))
        h = self.stem(x)
        kept = [h]
        for layer in self.down:
            h = layer(h, time) if isinstance(layer, Stage) else layer(h)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.up:
            h = layer(torch.cat([h, kept.pop()], 1), time) if isinstance(layer, Stage) else layer(h)
        noise: Tensor = self.to_noise(h)
        return noise


class Stage(nn.Module):
    """A residual block that knows the time, and self-attention after it or none."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int, *, attends: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(
            group_norm(channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        )
        self.of_time = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, channels_out))
        last = _zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.second = nn.Sequential(group_norm(channels_out), nn.SiLU(), last)
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        self.attention = Attention(channels_out) if attends else nn.Identity()

    def forward(self, x: Float[Tensor, "n c h w"], time: Float[Tensor, "n d"]) -> Float[Tensor, "n c2 h w"]:
        """The block's output; height and width stay."""
        h = self.first(x) + self.of_time(time)[:, :, None, None]
        h = self.shortcut(x) + self.second(h)
        out: Tensor = self.attention(h)
        return out


class Attention(nn.Module):
    """Self-attention over places, of one head (Ho et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """X and what its places have seen of each other."""
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)  # [N, h w, C] each
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        total: Tensor = x + self.out(seen)
        return total


class Doubling(nn.Module):
    """Nearest neighbours at twice the side, and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Twice the side."""
        larger: Tensor = self.convolution(F.interpolate(x, scale_factor=2, mode="nearest"))
        return larger


def embedded(t: Float[Tensor, " n"], length: int) -> Float[Tensor, "n length"]:
    """Sines and cosines of t, of `length` / 2 periods from 2 pi to 2 pi `PERIOD` (Ho et al. 2020)."""
    half = length // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32) / max(half - 1, 1)
    angles = t.float()[:, None] * torch.exp(-math.log(PERIOD) * exponents)
    return torch.cat([angles.sin(), angles.cos()], 1)


def _zeroed(convolution: nn.Conv2d) -> nn.Conv2d:
    """Start a last convolution at 0, so that a block begins as its shortcut (Ho et al. 2020)."""
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
