"""Convolutional autoencoder with a small spatial latent, which may grow from a low resolution to its own.

Blocks are pre-activation residual ones. Growing is that of Karras et al. 2018 (https://arxiv.org/abs/1710.10196) as
Tuluptceva et al. 2020 (https://arxiv.org/abs/2006.13265, section 3.3) use it: a network begins at a low resolution, and
a block for each doubled side fades in.

Level k of an autoencoder works on the image halved k times; `halvings` is the level of the latent.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.layers import PreActivationBlock

WIDEST = 64
"""Channels double with each halving up to this number: what passes is limited by the latent, not by the width."""

CRITIC_PX = 4
"""Side at which the critic halves no more."""


@dataclass(frozen=True)
class Layout:
    """How an autoencoder is made.

    Attributes:
        width: channels at full resolution.
        halvings: how often the side is halved down to the latent.
        latent_channels: channels of the latent.
        widest: channels double with each halving up to this number; `width` for as many everywhere.
        blocks: residual blocks at each resolution.
        batch_norm: normalise by batch in front of each activation.
    """

    width: int
    halvings: int
    latent_channels: int
    widest: int = WIDEST
    blocks: int = 1
    batch_norm: bool = True

    @property
    def widths(self) -> list[int]:
        """Channels after each halving of the side.

        >>> Layout(width=16, halvings=3, latent_channels=1).widths
        [16, 32, 64]
        """
        return [min(self.width * 2**level, self.widest) for level in range(self.halvings)]

    def at_one_side(self, channels_in: int, channels_out: int) -> list[nn.Module]:
        """The blocks at one resolution."""
        channels = [channels_in, *[channels_out] * self.blocks]
        return [PreActivationBlock(before, after, batch_norm=self.batch_norm) for before, after in pairwise(channels)]

    def activation(self, channels: int) -> list[nn.Module]:
        """What stands in front of a last convolution."""
        return [*([nn.BatchNorm2d(channels)] if self.batch_norm else []), nn.LeakyReLU(0.2)]


class Encoder(nn.Module):
    """Image to a spatial latent.

    `halvings` times residual blocks and a mean over 2 x 2 pixels, then a 1 x 1 convolution to the latent's channels.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.halvings, self._at_level = layout.halvings, layout.blocks + 1
        layers: list[nn.Module] = [nn.Conv2d(3, layout.width, 3, padding=1)]
        channels = layout.width
        for wider in layout.widths:
            layers += [*layout.at_one_side(channels, wider), nn.AvgPool2d(2)]
            channels = wider
        layers += [*layout.at_one_side(channels, channels), *layout.activation(channels)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, layout.latent_channels, 1))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent h2 w2"]:
        """X in [-1, 1]; the sides must be multiples of 2 ** halvings."""
        z: Tensor = self.layers(x)
        return z

    @property
    def stem(self) -> nn.Module:
        """Image to the channels of level 0."""
        return self.layers[0]

    def level(self, k: int) -> nn.Sequential:
        """The blocks of level k and the halving to the next; of level `halvings` all that is left."""
        start = 1 + k * self._at_level
        return self.layers[start : start + self._at_level if k < self.halvings else None]


class Decoder(nn.Module):
    """The encoder's mirror: latent to image."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.halvings, self._at_level, self._last = layout.halvings, layout.blocks + 1, 2 + layout.batch_norm
        channels = layout.widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(layout.latent_channels, channels, 1)]
        layers += layout.at_one_side(channels, channels)
        for narrower in reversed(layout.widths):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), *layout.at_one_side(channels, narrower)]
            channels = narrower
        self.layers = nn.Sequential(*layers, *layout.activation(channels), nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, z: Float[Tensor, "n latent h2 w2"]) -> Float[Tensor, "n 3 h w"]:
        """The reconstruction, nominally in [-1, 1] (not clipped: clipping has no gradient)."""
        x_hat: Tensor = self.layers(z)
        return x_hat

    def level(self, k: int) -> nn.Sequential:
        """The doubling to level k and its blocks; of level `halvings` the blocks at the latent's side."""
        start = (self.halvings - k) * self._at_level
        return self.layers[start : start + self._at_level]

    @property
    def head(self) -> nn.Sequential:
        """The channels of level 0 to an image."""
        return self.layers[-self._last :]


class Growth(nn.Module):
    """What an autoencoder has besides while it grows: ways in and out at the lower levels 1 to `levels`."""

    def __init__(self, layout: Layout, *, levels: int) -> None:
        super().__init__()
        widths = layout.widths
        self.stems = nn.ModuleList(nn.Conv2d(3, widths[k - 1], 3, padding=1) for k in range(1, levels + 1))
        self.heads = nn.ModuleList(
            nn.Sequential(*layout.activation(widths[k]), nn.Conv2d(widths[k], 3, 3, padding=1))
            for k in range(1, levels + 1)
        )


def grown(
    encoder: Encoder, decoder: Decoder, growth: Growth, x: Float[Tensor, "n 3 h w"], *, level: int, alpha: float
) -> Float[Tensor, "n 3 h w"]:
    """The reconstruction of x by the part of an autoencoder from `level` down.

    Args:
        encoder: whole.
        decoder: whole.
        growth: with the ways in and out at lower levels.
        x: images, halved `level` times.
        level: at which it works.
        alpha: share of the blocks of `level`; the rest goes past them, as before they were there. 1: there is no rest.
    """
    stem = encoder.stem if level == 0 else growth.stems[level - 1]
    h = encoder.level(level)(stem(x))
    if alpha < 1:
        h = alpha * h + (1 - alpha) * growth.stems[level](F.avg_pool2d(x, 2))
    for k in range(level + 1, encoder.halvings + 1):
        h = encoder.level(k)(h)
    return _decoded(decoder, growth, h, level=level, alpha=alpha)


def _decoded(decoder: Decoder, growth: Growth, z: Tensor, *, level: int, alpha: float) -> Tensor:
    for k in range(decoder.halvings, level, -1):
        z = decoder.level(k)(z)
    head = decoder.head if level == 0 else growth.heads[level - 1]
    x_hat: Tensor = head(decoder.level(level)(z))
    if alpha < 1:
        low = F.interpolate(growth.heads[level](z), scale_factor=2, mode="nearest")
        x_hat = alpha * x_hat + (1 - alpha) * low
    return x_hat


class Critic(nn.Module):
    """Image to one number, for an adversarial term: residual blocks and halvings, without batch normalisation.

    The gradient penalty is per sample, so that samples must not see each other (Gulrajani et al. 2017, section 4).
    """

    def __init__(self, *, width: int, input_px: int, blocks: int) -> None:
        super().__init__()
        side, layers = input_px, [cast(nn.Module, nn.Conv2d(3, width, 3, padding=1))]
        while side > CRITIC_PX and side % 2 == 0:
            layers += [PreActivationBlock(width, width, batch_norm=False) for _ in range(blocks)]
            layers.append(nn.AvgPool2d(2))
            side //= 2
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Conv2d(width, 1, side))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """X in [-1, 1]."""
        y: Tensor = self.layers(x).flatten()
        return y


@torch.no_grad()
def start_by_fan_out(network: nn.Module) -> None:
    """Start all convolutions as He et al. 2015 (https://arxiv.org/abs/1502.01852, eq. 14) do, by their fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, a=0.2, mode="fan_out", nonlinearity="leaky_relu")
