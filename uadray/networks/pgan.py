"""The generator of the progressive GAN. https://arxiv.org/abs/1710.10196 (Karras et al. 2018, table 2, left).

As in the paper: a 4 x 4 convolution on the latent vector, then two 3 x 3 convolutions a level, each followed by a leaky
ReLU and pixel normalisation, nearest-neighbour doubling, a linear 1 x 1 convolution to RGB. The discriminator is in
`uadray.networks.growing`.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.equalised import Conv2d, pixel_norm
from uadray.networks.growing import SLOPE, START_PX, Growth, channel_plan


class Generator(nn.Module):
    """Latent vector to image, at the side of its growth's level.

    Args:
        input_px: side of the images at full size.
        latent_dim: length of z.
        channel_max: see `uadray.networks.growing.channel_plan`.
        channel_base: see there.
    """

    def __init__(self, *, input_px: int, latent_dim: int, channel_max: int, channel_base: int) -> None:
        super().__init__()
        plan = channel_plan(input_px, channel_max=channel_max, channel_base=channel_base)
        self.growth = Growth(len(plan) - 1)
        self.start = Conv2d(latent_dim, plan[0], START_PX, padding=START_PX - 1)
        self.first = Conv2d(plan[0], plan[0], 3)
        self.blocks = nn.ModuleList(_Doubling(below, c) for below, c in pairwise(plan))
        self.to_rgb = nn.ModuleList(Conv2d(c, 3, 1, gain=1.0) for c in plan)

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 3 h w"]:
        """Images, most of their values in [-1, 1]: nothing bounds them, as published."""
        level = self.growth.level
        maps = _activated(self.start(pixel_norm(z)[:, :, None, None]))  # [N, C, 4, 4]
        maps = before = _activated(self.first(maps))
        for block in list(self.blocks)[:level]:
            maps, before = block(maps), maps
        x: Tensor = self.to_rgb[level](maps)
        if not self.growth.fading:
            return x
        return self.growth.mix(F.interpolate(self.to_rgb[level - 1](before), scale_factor=2.0), x)


class _Doubling(nn.Module):
    """Twice the side and two convolutions."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv2d(channels_in, channels, 3), Conv2d(channels, channels, 3)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        return _activated(self.conv2(_activated(self.conv1(F.interpolate(x, scale_factor=2.0)))))


def _activated(x: Tensor) -> Tensor:
    return pixel_norm(F.leaky_relu(x, SLOPE))
