"""DCGAN. https://arxiv.org/abs/1511.06434 (Radford et al. 2016), in the variant of AnoGAN.

AnoGAN: https://arxiv.org/abs/1703.05921 (Schlegl et al. 2017), section 3.

As in the paper (section 3 and figure 1): z is projected to 4 x 4 and reshaped, then 5 x 5 convolutions with stride 2
double the side; batch normalisation everywhere but at the generator's output and the discriminator's input; ReLU and
tanh in the generator, LeakyReLU of slope 0.2 in the discriminator; weights begin as N(0, 0.02). As in AnoGAN: half as
many channels, 512-256-128-64 at 64 px.

Different: the number of stages follows from the resolution (any power of two from 16), channels double with each
halving up to eight times the width; pictures have three colours (AnoGAN's one). The discriminator gives its logit: the
sigmoid is part of the loss. Trained generators draw with the running statistics of batch normalisation, so that a
picture does not depend on its batch.

What the paper does not say is as in the authors' code (github.com/Newmu/dcgan_code): the projection is normalised unit
by unit, and there are no biases but those of batch normalisation. At 64 px, width 128 and latent_dim 100 both have as
many parameters as there: 18,885,760 and 17,232,768; at width 64, which is AnoGAN's, 5,142,080 and 4,315,584.
"""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

START_PX = 4

SPREAD = 0.02
"""Deviation of the weights at the start, and of the gains of batch normalisation around 1 (authors' code)."""


def channel_plan(width: int, input_px: int) -> list[int]:
    """Channels of the hidden maps from half the resolution down to 4 x 4.

    >>> channel_plan(64, 64)
    [64, 128, 256, 512]
    """
    return [width * min(8, 2**level) for level in range(int(math.log2(input_px // START_PX)))]


class Generator(nn.Module):
    """Latent vector to image."""

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)[::-1]
        self.start = nn.Linear(latent_dim, plan[0] * START_PX**2, bias=False)
        self.start_norm = nn.BatchNorm1d(plan[0] * START_PX**2)
        self.stages = nn.Sequential(
            *(nn.Sequential(_doubling(a, b), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(plan))
        )
        self.to_rgb = _doubling(plan[-1], 3)
        self.apply(_begin)

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 3 h w"]:
        """Images in [-1, 1]."""
        start = F.relu(self.start_norm(self.start(z)))
        return F.tanh(self.to_rgb(self.stages(start.view(z.shape[0], -1, START_PX, START_PX))))  # [N, 8 width, 4, 4]


class Discriminator(nn.Module):
    """Image to a logit: high on what looks like training data."""

    def __init__(self, *, width: int, input_px: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)
        self.from_rgb = nn.Conv2d(3, plan[0], 5, stride=2, padding=2, bias=False)
        self.stages = nn.Sequential(
            *(nn.Sequential(_halving(a, b), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)) for a, b in pairwise(plan))
        )
        self.logit = nn.Linear(plan[-1] * START_PX**2, 1, bias=False)
        self.apply(_begin)

    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 4 4"]:
        """The last map before the logit, which AnoGAN compares images by (Schlegl et al. 2017, eq. 4); x in [-1, 1]."""
        maps: Tensor = self.stages(F.leaky_relu(self.from_rgb(x), 0.2))
        return maps

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """X in [-1, 1]."""
        value: Tensor = self.logit(self.features(x).flatten(1))
        return value.squeeze(1)


def _doubling(channels_in: int, channels_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, 5, stride=2, padding=2, output_padding=1, bias=False)


def _halving(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 5, stride=2, padding=2, bias=False)


def _begin(layer: nn.Module) -> None:
    """The weights that a training starts with."""
    match layer:
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            nn.init.normal_(layer.weight, 1.0, SPREAD)
        case nn.Linear() | nn.Conv2d() | nn.ConvTranspose2d():
            nn.init.normal_(layer.weight, 0.0, SPREAD)
