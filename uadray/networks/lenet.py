"""The encoder of Deep SVDD, which cannot learn a constant, and its mirror.

Ruff et al. 2018, http://proceedings.mlr.press/v80/ruff18a.html, section 4.1 and the network for CIFAR-10: modules of a
convolution 5 x 5, a normalisation, leaky ReLU of slope 0.1 and a maximum over 2 x 2 pixels, with 32, 64 and 128
channels, then a linear layer. No layer has a bias, no normalisation a learned shift, and no activation has a bound on
both sides: with any of them all images can be taken to one point whatever they show (propositions 2 and 3). The mirror
doubles sides by repeating pixels.

Different: the number of modules follows from the side, so that the last map is 4 x 4 at every side (theirs at 32 px);
channels double up to four times the first number. The mirror ends in tanh, for images in [-1, 1].
"""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

START_PX = 4

SLOPE = 0.1
"""Of leaky ReLU (section 4.1)."""

EPSILON = 1e-4
"""Added to variances by the normalisation (authors' code)."""


def channel_plan(width: int, input_px: int) -> list[int]:
    """Channels of the modules, from the image down to 4 x 4.

    >>> channel_plan(32, 32), channel_plan(32, 64)
    ([32, 64, 128], [32, 64, 128, 128])
    """
    return [width * min(4, 2**level) for level in range(int(math.log2(input_px // START_PX)))]


class Encoder(nn.Module):
    """Image to a vector, without any constant that is learned.

    Args:
        width: channels of the first module.
        input_px: side of the image, a power of two from 16.
        outputs: length of the vector.
    """

    def __init__(self, *, width: int, input_px: int, outputs: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)
        self.stages = nn.Sequential(*(_halving(a, b) for a, b in pairwise([3, *plan])))
        self.to_vector = nn.Linear(plan[-1] * START_PX**2, outputs, bias=False)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n outputs"]:
        """X in [-1, 1]."""
        z: Tensor = self.to_vector(self.stages(x).flatten(1))
        return z


class Decoder(nn.Module):
    """The mirror: vector to image, for the pretraining."""

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)[::-1]
        self.start = nn.Linear(latent_dim, plan[0] * START_PX**2, bias=False)
        self.norm = _norm(plan[0])
        self.stages = nn.Sequential(*(_doubling(a, b) for a, b in pairwise([*plan, plan[-1]])))
        self.to_rgb = nn.Conv2d(plan[-1], 3, 5, padding=2, bias=False)

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 3 h w"]:
        """Images in [-1, 1]."""
        start = self.start(z).view(len(z), -1, START_PX, START_PX)  # [N, 4 * width, 4, 4]
        return F.tanh(self.to_rgb(self.stages(F.leaky_relu(self.norm(start), SLOPE))))


def _halving(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 5, padding=2, bias=False)
    return nn.Sequential(convolution, _norm(channels_out), nn.LeakyReLU(SLOPE), nn.MaxPool2d(2))


def _doubling(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 5, padding=2, bias=False)
    return nn.Sequential(nn.Upsample(scale_factor=2), convolution, _norm(channels_out), nn.LeakyReLU(SLOPE))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, affine=False)
