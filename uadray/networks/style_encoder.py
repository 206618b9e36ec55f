"""An encoder of images into the latents of a generator: W+ of a style-based one, or z.

After pSp (Richardson et al. 2021, https://arxiv.org/abs/2008.00951, section 3.1) and e4e (Tov et al. 2021,
https://arxiv.org/abs/2102.02766, section 4): a residual network whose maps of three sides, joined as a feature pyramid,
give the styles of a generator's coarse, medium and fine layers, each as an offset from the mean w. Different:

- The coarse map is the smallest of all (4 x 4), the medium one has twice and the fine one four times its side, at any
  side of the input. pSp has 16, 32 and 64 px of 256 px.
- The convolutions that bring a group's map down to 4 x 4 serve all layers of the group; what each layer has for itself
  is one fully connected layer. In pSp each layer has its own convolutions.
- Layers have an equalised learning rate, no normalisation by batch (a tile's latent does not depend on the others of
  its batch), and the last ones start at zero: an untrained encoder gives the mean latent.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.equalised import HE, Conv2d, Linear

SMALLEST_PX = 4
"""Side of the coarse map, and of those that latents are read from."""

GROUPS = (3, 4)
"""Layers of the generator in the coarse and in the medium group (pSp: 3 of up to 8 px, 4 of up to 32 px); others are
fine."""

SLOPE = 0.2
"""Of the leaky ReLU on its negative side."""


def groups_of(layers: int) -> tuple[int, ...]:
    """Layers of the generator in each group.

    >>> groups_of(8), groups_of(16), groups_of(1)
    ((3, 4, 1), (3, 4, 9), (1,))
    """
    coarse = min(layers, GROUPS[0])
    medium = min(layers - coarse, GROUPS[1])
    return tuple(n for n in (coarse, medium, layers - coarse - medium) if n)


class DownBlock(nn.Module):
    """Residual block that halves the side; the sum has the variance of each of its two terms."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, channels_in, 3)
        self.conv2 = Conv2d(channels_in, channels_out, 3, gain=HE / math.sqrt(2))
        self.shortcut = Conv2d(channels_in, channels_out, 1, gain=1 / math.sqrt(2), bias=None)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Maps of half the side."""
        y = F.leaky_relu(self.conv1(x), SLOPE)
        y = F.leaky_relu(self.conv2(F.avg_pool2d(y, 2)), SLOPE)
        total: Tensor = y + self.shortcut(F.avg_pool2d(x, 2))
        return total


class StyleHead(nn.Module):
    """A map of the pyramid to the latents of a group of layers.

    Args:
        channels: of the map.
        halvings: from its side to `SMALLEST_PX`.
        layers: of the generator.
        dim: length of each one's latent.
    """

    def __init__(self, channels: int, *, halvings: int, layers: int, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv2d(channels, channels, 3, stride=2) for _ in range(halvings))
        outputs = [Linear(channels * SMALLEST_PX**2, dim, gain=1.0) for _ in range(layers)]
        for output in outputs:
            nn.init.zeros_(output.weight)
        self.outputs = nn.ModuleList(outputs)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n layers dim"]:
        """One vector a layer."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
        return torch.stack([output(x.flatten(1)) for output in self.outputs], dim=1)


class StyleEncoder(nn.Module):
    """Images to latents: mean + unit * offsets.

    Args:
        input_px: side of the images, a power of two from 16.
        width: channels at full resolution; they double with each halving.
        channel_max: but are no more than this.
        shape: of one latent: (layers, dim), or (dim,).

    Attributes:
        mean: of the generator's latents, from which offsets are counted.
        unit: what an offset of 1 is: the deviation of one component of a latent over the generator's distribution.
    """

    mean: Tensor
    unit: Tensor

    def __init__(self, *, input_px: int, width: int, channel_max: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        *_, dim = self.shape
        groups = groups_of(math.prod(self.shape[:-1]))
        halvings = int(math.log2(input_px // SMALLEST_PX))
        channels = [min(channel_max, width * 2**i) for i in range(halvings + 1)]
        self.from_rgb = Conv2d(3, channels[0], 3)
        self.blocks = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(channels))
        pyramid = channels[::-1][: len(groups)]  # of the coarse map, the medium and the fine one
        self.laterals = nn.ModuleList(Conv2d(a, pyramid[0], 1, gain=1.0) for a in pyramid[1:])
        self.heads = nn.ModuleList(StyleHead(pyramid[0], halvings=i, layers=n, dim=dim) for i, n in enumerate(groups))
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("unit", torch.ones(()))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ..."]:
        """X in [-1, 1] -> latents."""
        return self.latents(self.offsets(x))

    def latents(self, offsets: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Latents of offsets in units of the deviation."""
        return self.mean + self.unit * offsets

    def offsets(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ..."]:
        """X in [-1, 1] -> offsets from the mean latent, in units of the deviation of one component."""
        found = [head(y) for head, y in zip(self.heads, self.pyramid(x), strict=True)]
        return torch.cat(found, dim=1).reshape(len(x), *self.shape)

    def pyramid(self, x: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c _ _"]]:
        """The coarse map [n, c, 4, 4], and where there are layers for them the medium and the fine one."""
        maps = [F.leaky_relu(self.from_rgb(x), SLOPE)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        joined = [maps[-1]]
        for lateral, finer in zip(self.laterals, maps[-2::-1], strict=False):
            enlarged = F.interpolate(joined[-1], scale_factor=2, mode="bilinear", align_corners=False)
            joined.append(lateral(finer) + enlarged)
        return joined

    @torch.no_grad()
    def centre(self, mean: Float[Tensor, "..."], unit: float) -> None:
        """Count offsets from a generator's mean latent, in units of the deviation of one component."""
        self.mean.copy_(mean)
        self.unit.fill_(unit)
