"""The generator of StyleGAN. https://arxiv.org/abs/1812.04948 (Karras et al. 2019, section 2, appendices B and C).

As in the paper: eight layers from z to w, a learned constant, noise with a learned scale a channel, leaky ReLU and
adaptive instance normalisation after each convolution, doubling through a binomial filter, no image below 8 x 8. The
filter comes before the convolution that follows a doubling (the two commute except at the borders). The discriminator
is in `uadray.networks.growing`.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.equalised import Blur, Conv2d, Linear, pixel_norm
from uadray.networks.growing import SLOPE, START_PX, Growth, channel_plan

FIRST_LEVEL = 1
"""The first level with an image: 8 x 8 (appendix C)."""
MAPPING_RATE = 0.01
"""Multiplier of the mapping's learning rate (appendix C)."""


class Generator(nn.Module):
    """Latent vector to image, at the side of its growth's level.

    Attributes:
        mapping: z to w.
        synthesis: styles to images.
        mean_w: a running mean of w, towards which styles are truncated.

    Args:
        input_px: side of the images at full size.
        latent_dim: length of z.
        w_dim: length of w.
        channel_max: see `uadray.networks.growing.channel_plan`.
        channel_base: see there.
    """

    def __init__(self, *, input_px: int, latent_dim: int, w_dim: int, channel_max: int, channel_base: int) -> None:
        super().__init__()
        self.mapping = Mapping(latent_dim=latent_dim, w_dim=w_dim)
        plan = channel_plan(input_px, channel_max=channel_max, channel_base=channel_base)
        self.synthesis = Synthesis(plan, w_dim=w_dim)
        self.register_buffer("mean_w", torch.zeros(w_dim))
        self.mean_w: Tensor

    @property
    def growth(self) -> Growth:
        """How far it has grown."""
        return self.synthesis.growth

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 3 h w"]:
        """Images of one w each, with the fixed noise."""
        x: Tensor = self.synthesis(self.styles(self.mapping(z)))
        return x

    def styles(self, w: Float[Tensor, "n w_dim"], *, truncation: float = 1.0) -> Float[Tensor, "n layers w_dim"]:
        """W for every layer, moved towards the mean (appendix B: mean + truncation * (w - mean))."""
        if truncation != 1:
            w = self.mean_w + truncation * (w - self.mean_w)
        return w.unsqueeze(1).expand(-1, self.synthesis.layers, -1)


class Mapping(nn.Module):
    """Z to w: normalised, then eight layers, whose outputs' scale does not depend on their multiplier."""

    def __init__(self, *, latent_dim: int, w_dim: int, layers: int = 8) -> None:
        super().__init__()
        sizes = [latent_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(Linear(a, b, rate=MAPPING_RATE) for a, b in pairwise(sizes))

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n w_dim"]:
        """The layers' output."""
        w = pixel_norm(z)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), SLOPE)
        return w


class Synthesis(nn.Module):
    """Styles to images.

    Attributes:
        layers: of styles, two a level; those above the growth's level are not looked at.

    Args:
        plan: channels at 4, 8, ... px.
        w_dim: length of w.
    """

    def __init__(self, plan: Sequence[int], *, w_dim: int) -> None:
        super().__init__()
        self.growth, self.layers = Growth(len(plan) - 1), 2 * len(plan)
        self.constant = nn.Parameter(torch.ones(1, plan[0], START_PX, START_PX))
        self.convolutions = nn.ModuleList(_convolutions(plan))
        self.blur = Blur((1, 3, 3, 1))
        self.epilogues = nn.ModuleList(Epilogue(c, w_dim=w_dim) for c in plan for _ in range(2))
        self.to_rgb = nn.ModuleList(Conv2d(c, 3, 1, gain=1.0) for c in plan[FIRST_LEVEL:])
        for layer in range(self.layers):
            side = START_PX * 2 ** (layer // 2)
            self.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))

    def forward(
        self, w: Float[Tensor, "n layers w_dim"], *, noise: Sequence[Float[Tensor, "_ 1 _ _"]] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """Images, most of their values in [-1, 1]: nothing bounds them, as published.

        Args:
            w: a style for each layer.
            noise: maps for the layers up to the growth's level, [n or 1, 1, h, w]; None for the fixed ones.
        """
        level = self.growth.level
        noise = self.fixed_noise() if noise is None else noise
        maps = before = self.constant.expand(len(w), -1, -1, -1)
        for layer in range(2 * (level + 1)):
            if layer and layer % 2 == 0:
                before, maps = maps, self.blur.up(maps)
            if layer:
                maps = self.convolutions[layer - 1](maps)
            maps = self.epilogues[layer](maps, w[:, layer], noise[layer])
        x: Tensor = self.to_rgb[level - FIRST_LEVEL](maps)
        if not self.growth.fading:
            return x
        smaller = self.to_rgb[level - 1 - FIRST_LEVEL](before)
        return self.growth.mix(F.interpolate(smaller, scale_factor=2.0), x)

    def fixed_noise(self) -> list[Tensor]:
        """The maps [1, 1, h, w] that belong to the network, for all its layers."""
        return [getattr(self, f"noise_{layer}") for layer in range(self.layers)]

    def drawn_noise(self, n: int) -> list[Tensor]:
        """Maps [n, 1, h, w] anew, for the layers up to the growth's level."""
        fixed = self.fixed_noise()[: 2 * (self.growth.level + 1)]
        return [torch.randn(n, *each.shape[1:], device=each.device) for each in fixed]


class Epilogue(nn.Module):
    """What follows each convolution: noise, bias, leaky ReLU, and the style (section 2, figure 1)."""

    def __init__(self, channels: int, *, w_dim: int) -> None:
        super().__init__()
        self.noise_scale = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = Linear(w_dim, 2 * channels, gain=1.0)

    def forward(
        self, x: Float[Tensor, "n c h w"], w: Float[Tensor, "n w_dim"], noise: Float[Tensor, "_ 1 h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Maps in the style of w."""
        x = x + self.bias.view(-1, 1, 1) + self.noise_scale.view(-1, 1, 1) * noise
        scale, shift = self.style(w).chunk(2, dim=1)
        return adain(F.leaky_relu(x, SLOPE), scale=1 + scale, shift=shift)


def adain(
    x: Float[Tensor, "n c h w"], *, scale: Float[Tensor, "n c"], shift: Float[Tensor, "n c"]
) -> Float[Tensor, "n c h w"]:
    """Adaptive instance normalisation: each map to mean `shift` and standard deviation `scale` (section 2, eq. 1)."""
    normal = F.instance_norm(x, eps=1e-8)
    return normal * scale[:, :, None, None] + shift[:, :, None, None]


def mixed(
    w1: Float[Tensor, "n layers w_dim"], w2: Float[Tensor, "n layers w_dim"], *, probability: float, layers: int
) -> Float[Tensor, "n layers w_dim"]:
    """Style mixing (section 3.1): with this probability, w2 from a random layer on, for each picture its own.

    Args:
        w1: of the first layers.
        w2: of the others.
        probability: of a change.
        layers: that are looked at; the change is at one of them.
    """
    n, device = len(w1), w1.device
    change = torch.randint(1, layers, (n,), device=device)
    change = torch.where(torch.rand(n, device=device) < probability, change, layers)
    number = torch.arange(w1.shape[1], device=device)
    return torch.where((number < change.unsqueeze(1)).unsqueeze(2), w1, w2)


def _convolutions(plan: Sequence[int]) -> list[nn.Module]:
    """One at 4 px, two at each level after it; their bias comes after the noise."""
    found: list[nn.Module] = [Conv2d(plan[0], plan[0], 3, bias=None)]
    for below, c in pairwise(plan):
        found += [Conv2d(below, c, 3, bias=None), Conv2d(c, c, 3, bias=None)]
    return found
