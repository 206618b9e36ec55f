"""The networks of PIAD. https://arxiv.org/abs/1909.05904 (Tuluptceva et al. 2019).

Residual blocks without normalisation, as the gradient penalties of its critics ask for, of the sizes in the authors'
configurations. Different: channels double with each halving up to eight times the width, from any power of two.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.wgan_gp import START_PX, channel_plan


class Block(nn.Module):
    """Residual block without normalisation: activation, resizing, convolution, twice; both ways are resized."""

    def __init__(self, channels_in: int, channels_out: int, *, resize: nn.Module) -> None:
        super().__init__()
        self.resize = resize
        self.residual = nn.Sequential(
            nn.LeakyReLU(0.2),
            resize,
            _convolution(channels_in, channels_out, 3, padding=1),
            nn.LeakyReLU(0.2),
            _convolution(channels_out, channels_out, 3, padding=1),
        )
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else _convolution(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The block's output, its side as `resize` makes it."""
        total: Tensor = self.shortcut(self.resize(x)) + self.residual(x)
        return total


def _convolution(channels_in: int, channels_out: int, side: int, *, padding: int = 0) -> nn.Conv2d:
    """A convolution with the weights that He et al. 2015 start with: there is no normalisation to mend others."""
    convolution = nn.Conv2d(channels_in, channels_out, side, padding=padding)
    nn.init.kaiming_normal_(convolution.weight, a=0.2, mode="fan_out")
    return convolution


class Encoder(nn.Module):
    """Image to a vector: the encoder, and with a vector of one number the critic of images."""

    def __init__(self, *, width: int, input_px: int, outputs: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)
        layers: list[nn.Module] = [_convolution(3, width, 3, padding=1), Block(width, width, resize=nn.Identity())]
        layers += [Block(a, b, resize=nn.AvgPool2d(2)) for a, b in pairwise(plan)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2), _convolution(plan[-1], outputs, START_PX))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n outputs"]:
        """X in [-1, 1]."""
        z: Tensor = self.layers(x)
        return z.flatten(1)


class Generator(nn.Module):
    """Latent vector to image."""

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)[::-1]
        self.start = nn.Linear(latent_dim, plan[0] * START_PX**2)
        up = [Block(a, b, resize=nn.Upsample(scale_factor=2)) for a, b in pairwise(plan)]
        self.blocks = nn.Sequential(Block(plan[0], plan[0], resize=nn.Identity()), *up)
        self.to_rgb = nn.Conv2d(plan[-1], 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 3 h w"]:
        """Images in [-1, 1]."""
        start = self.start(z).view(len(z), -1, START_PX, START_PX)
        return torch.tanh(self.to_rgb(F.leaky_relu(self.blocks(start), 0.2)))


class LatentCritic(nn.Module):
    """Latent vector to a real number: high on what looks like a draw of the prior."""

    def __init__(self, *, latent_dim: int, width: int) -> None:
        super().__init__()
        hidden = [nn.Linear(latent_dim, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 1"]:
        """Z as the prior draws it, or as the encoder makes it."""
        value: Tensor = self.layers(z)
        return value
