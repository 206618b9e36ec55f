"""StyleGAN2. https://arxiv.org/abs/1912.04958 (Karras et al. 2020, section 2, section 4.1 and appendix B).

As in the paper: weights modulated by styles and demodulated, noise and bias after them, pictures as a sum of upsampled
RGB, a residual discriminator, filters (1, 3, 3, 1) wherever a side changes. Configuration E has `channel_base` 16384, F
32768. Different, and the same function:

- A style scales the channels that come in, one convolution serves all pictures of a batch, and the channels that go out
  are divided by the norms that the modulated weights would have: no weights are made for each picture, and a second
  derivative has no grouped convolutions.
- The activation's gain of root 2 is multiplied into what is small before it: scales, biases, noise strengths.

Different, and another function: biases of the discriminator and of the mapping network have no gain of root 2 (they
learn slower by that). Where a training multiplies in bfloat16, styles, demodulation, the mapping network, sums of RGB
and the discriminator's last layers stay in float32.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.equalised import GROUP, HE, Blur, Conv2d, Linear, minibatch_deviation, pixel_norm

START_PX = 4
TAPS = (1, 3, 3, 1)
SLOPE = 0.2
"""Of the leaky ReLU on its negative side."""


def sides(input_px: int) -> list[int]:
    """Of the maps, from 4 to that of the picture.

    >>> sides(32)
    [4, 8, 16, 32]
    """
    return [START_PX * 2**level for level in range(int(math.log2(input_px // START_PX)) + 1)]


class Mapping(nn.Module):
    """Z to w: fully connected layers that learn slower than the others (Karras et al. 2019, section 2, appendix C)."""

    def __init__(self, *, latent_dim: int, w_dim: int, layers: int, rate: float) -> None:
        super().__init__()
        widths = [latent_dim, *[w_dim] * layers]
        self.layers = nn.ModuleList(Linear(a, b, rate=rate) for a, b in pairwise(widths))

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n dim"]:
        """W, in float32 at any rate: all styles and path lengths go through it."""
        with _float32(z):
            w: Tensor = pixel_norm(_raised(z))
            for layer in self.layers:
                w = F.leaky_relu(layer(w), SLOPE)
            return w


class ModulatedConv2d(nn.Module):
    """A convolution whose weights are multiplied, picture by picture, by a style (section 2.2, equations 1 and 3).

    Args:
        channels_in: of the maps that come in.
        channels_out: of those that go out.
        side: of the kernel.
        w_dim: length of w.
        is_up: double the side of the maps.
        demodulate: divide by the norm of the modulated weights: outputs of unit variance for inputs of it.
    """

    def __init__(
        self, channels_in: int, channels_out: int, side: int, *, w_dim: int, is_up: bool = False,
        demodulate: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.side, self.is_up, self.demodulate = side, is_up, demodulate
        self.scale = 1 / math.sqrt(channels_in * side**2)
        self.style = Linear(w_dim, channels_in, gain=1.0, bias=1.0)
        channels = (channels_in, channels_out) if is_up else (channels_out, channels_in)  # as torch takes them
        self.weight = nn.Parameter(torch.randn(*channels, side, side))
        self.blur = Blur(TAPS) if is_up else None

    def forward(self, x: Float[Tensor, "n c h w"], w: Float[Tensor, "n dim"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The maps that go out, without bias."""
        inputs = self.scales(w)
        y = self.convolved(x, inputs)
        return y * self.demodulation(inputs).to(y.dtype)[:, :, None, None] if self.demodulate else y

    def scales(self, w: Float[Tensor, "n dim"]) -> Float[Tensor, "n c"]:
        """What channels that come in are multiplied by, in float32: the style, and the equalised learning rate."""
        with _float32(w):
            inputs: Tensor = self.style(w) * self.scale
            return inputs

    def demodulation(self, inputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c2"]:
        """What channels that go out are multiplied by, in float32: 1 over the norm of the weights w' = inputs * w."""
        with _float32(inputs):
            energy = self.weight.square().sum(dim=(2, 3))  # of each pair of channels
            return torch.rsqrt(inputs.square() @ (energy if self.is_up else energy.T) + 1e-8)

    def convolved(self, x: Float[Tensor, "n c h w"], inputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The convolution of the scaled channels, one for all pictures."""
        x = x * inputs.to(x.dtype)[:, :, None, None]
        if self.blur is None:
            return F.conv2d(x, self.weight, padding=self.side // 2)
        y: Tensor = self.blur(F.conv_transpose2d(x, self.weight, stride=2), padding=1, gain=4.0)
        return y


class StyledLayer(nn.Module):
    """Modulated convolution, noise, bias and activation (figure 2c).

    Attributes:
        noise: the map that is added where a picture is to be the same every time.
        strength: by which noise is multiplied, for all channels (appendix B: one number).
    """

    noise: Tensor

    def __init__(self, channels_in: int, channels_out: int, *, side_px: int, w_dim: int, is_up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels_in, channels_out, 3, w_dim=w_dim, is_up=is_up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.register_buffer("noise", torch.randn(side_px, side_px))

    def forward(
        self, x: Float[Tensor, "n c h w"], w: Float[Tensor, "n dim"], noise: Float[Tensor, "*n 1 h2 w2"]
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """The layer's output; noise is a map for all pictures, or one for each."""
        inputs = self.conv.scales(w)
        y = self.conv.convolved(x, inputs)
        outputs, bias = ((t * HE).to(y.dtype) for t in (self.conv.demodulation(inputs), self.bias))
        y = torch.addcmul(bias[:, None, None], y, outputs[:, :, None, None])
        y = y.add_((noise * (self.strength * HE)).to(y.dtype))
        return F.leaky_relu(y, SLOPE, inplace=True)


class ToRgb(nn.Module):
    """What a resolution adds to the picture: a modulated 1 x 1 convolution, not demodulated."""

    def __init__(self, channels: int, *, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, 3, 1, w_dim=w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Float[Tensor, "n c h w"], w: Float[Tensor, "n dim"]) -> Float[Tensor, "n 3 h w"]:
        """RGB in float32."""
        rgb: Tensor = _raised(self.conv(x, w)) + self.bias[:, None, None]
        return rgb


class Generator(nn.Module):
    """Z to w, and w to pictures.

    Attributes:
        n_styles: vectors w that a picture takes: one a convolution, and one for the last RGB.
        mean_w: of w over the training, to which `truncated` draws.
        path_length: mean over the training, see `uadray.generators.gan_losses.path_length_penalty`.
    """

    mean_w: Tensor
    path_length: Tensor

    def __init__(
        self, *, input_px: int, channels: Sequence[int], latent_dim: int, w_dim: int, mapping_layers: int,
        mapping_rate: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mapping = Mapping(latent_dim=latent_dim, w_dim=w_dim, layers=mapping_layers, rate=mapping_rate)
        self.start = nn.Parameter(torch.randn(1, channels[0], START_PX, START_PX))
        self.layers, self.to_rgb = nn.ModuleList(), nn.ModuleList()
        before = channels[0]
        for side_px, width in zip(sides(input_px), channels, strict=True):
            if side_px > START_PX:
                self.layers.append(StyledLayer(before, width, side_px=side_px, w_dim=w_dim, is_up=True))
            self.layers.append(StyledLayer(width, width, side_px=side_px, w_dim=w_dim, is_up=False))
            self.to_rgb.append(ToRgb(width, w_dim=w_dim))
            before = width
        self.blur = Blur(TAPS)
        self.n_styles = len(self.layers) + 1
        self.register_buffer("mean_w", torch.zeros(w_dim))
        self.register_buffer("path_length", torch.zeros(()))

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 3 h w"]:
        """Pictures, noise drawn anew."""
        return self.synthesis(self.broadcast(self.mapping(z)))

    def broadcast(self, w: Float[Tensor, "n dim"]) -> Float[Tensor, "n styles dim"]:
        """One w for all layers."""
        return w[:, None].expand(-1, self.n_styles, -1)

    def truncated(self, w: Float[Tensor, "n dim"], *, truncation: float) -> Float[Tensor, "n dim"]:
        """W drawn towards the mean w: 1 leaves it, 0 gives the mean (Karras et al. 2019, appendix B)."""
        return torch.lerp(self.mean_w, w, truncation)

    def synthesis(
        self, w: Float[Tensor, "n styles dim"], *, noise: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """Pictures, about in [-1, 1].

        Args:
            w: one vector a layer.
            noise: a map a layer, [1, h, w] for all pictures or [n, 1, h, w]; None draws maps anew.
        """
        maps = self.drawn_noise(len(w), w.device) if noise is None else noise
        styles = w.unbind(dim=1)
        x = self.start.expand(len(w), -1, -1, -1)
        rgb: Tensor | None = None
        for level, to_rgb in enumerate(self.to_rgb):
            for i in range(max(0, 2 * level - 1), 2 * level + 1):
                x = self.layers[i](x, styles[i], maps[i])
            added = to_rgb(x, styles[2 * level + 1])
            rgb = added if rgb is None else self._doubled(rgb) + added
        assert rgb is not None  # noqa: S101  # there is one level at the least
        return rgb

    def fixed_noise(self) -> list[Float[Tensor, "1 h w"]]:
        """The map of each layer that makes pictures the same every time."""
        return [cast(StyledLayer, layer).noise[None] for layer in self.layers]

    def drawn_noise(self, n: int, device: torch.device) -> list[Float[Tensor, "n 1 h w"]]:
        """New maps for n pictures, drawn in one call."""
        shapes = [m.shape for m in self.fixed_noise()]
        counts = [shape.numel() for shape in shapes]
        parts = torch.randn(n, sum(counts), device=device).split(counts, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def _doubled(self, rgb: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h2 w2"]:
        with _float32(rgb):
            return self.blur.up(rgb)


class DiscriminatorBlock(nn.Module):
    """Two convolutions beside a shortcut, the side halved (figure 7c); their sum has the variance of each."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, channels_in, 3)
        self.conv2 = Conv2d(channels_in, channels_out, 3, stride=2, padding=0, gain=HE / math.sqrt(2))
        self.shortcut = Conv2d(channels_in, channels_out, 1, gain=1 / math.sqrt(2), bias=None)
        self.blur = Blur(TAPS)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Maps of half the side."""
        y = F.leaky_relu(self.conv1(x), SLOPE, inplace=True)
        y = F.leaky_relu(self.conv2(self.blur(y, padding=2)), SLOPE)
        total: Tensor = y + self.shortcut(self.blur.down(x))
        return total


class Discriminator(nn.Module):
    """Picture to a real number: high on what looks like training data."""

    def __init__(self, *, channels: Sequence[int]) -> None:
        super().__init__()
        downwards = channels[::-1]
        self.from_rgb = Conv2d(3, downwards[0], 1)
        self.blocks = nn.Sequential(*(DiscriminatorBlock(a, b) for a, b in pairwise(downwards)))
        self.last_conv = Conv2d(channels[0] + 1, channels[0], 3)
        self.last_dense = Linear(channels[0] * START_PX**2, channels[0])
        self.score = Linear(channels[0], 1, gain=1.0)

    def forward(self, x: Float[Tensor, "n 3 h w"], *, group: int = GROUP) -> Float[Tensor, " n"]:
        """X in [-1, 1]; `group` pictures are looked at together, 1 judges each as if alone."""
        features = self.features(x, group=group)
        with _float32(features):
            scores: Tensor = self.score(features)
            return scores.squeeze(1)

    def features(self, x: Float[Tensor, "n 3 h w"], *, group: int = GROUP) -> Float[Tensor, "n features"]:
        """What the score is a linear function of; a picture's depends on those beside it (minibatch deviation)."""
        maps = self.maps(x)
        with _float32(maps):
            maps = F.leaky_relu(self.last_conv(minibatch_deviation(_raised(maps), group=group)), SLOPE)
            return F.leaky_relu(self.last_dense(maps.flatten(1)), SLOPE)

    def maps(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 4 4"]:
        """The last maps that know nothing of the batch's other pictures."""
        maps: Tensor = self.blocks(F.leaky_relu(self.from_rgb(x), SLOPE, inplace=True))
        return maps


def _float32(x: Tensor) -> torch.autocast:
    """A part of a network that is not lowered by an autocast around it."""
    return torch.autocast(x.device.type, enabled=False)


def _raised(x: Tensor) -> Tensor:
    """X in float32, where it has less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
