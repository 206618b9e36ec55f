"""WGAN-GP with residual blocks. https://arxiv.org/abs/1704.00028 (Gulrajani et al. 2017, the 64 x 64 ResNet).

As in the authors' code for 64 px (github.com/igul222/improved_wgan_training, `gan_64x64.py`, width 64; the paper has a
table of its networks for 32 px alone): z of 128 standard normals is projected to 4 x 4, four up blocks of 512, 256, 128
and 64 channels, batch normalisation, ReLU, a 3 x 3 convolution, tanh; a critic of one 3 x 3 convolution and four down
blocks of 128, 256, 512 and 512 channels without an activation behind them, and a linear layer. Blocks are
pre-activation with two 3 x 3 convolutions and a 1 x 1 one on the shortcut, averages of 2 x 2 or nearest neighbours. The
generator normalises by batch, the critic by layer, with one gain a channel.

Different: the number of blocks follows from the resolution (any power of two from 16), channels double with each
halving up to eight times the width, as in f-AnoGAN's networks. The first convolution of a block has a bias, and that of
a down block widens already (in the authors' code the second one does), so that at 64 px and width 64 the generator has
8,541,443 parameters (theirs 8,540,483) and the critic 9,816,577 (theirs 7,491,841). Weights begin as torch's do, not as
He's.
"""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.layers import WganBlock

START_PX = 4


def channel_plan(width: int, input_px: int) -> list[int]:
    """Channels from full resolution down to 4 x 4.

    >>> channel_plan(16, 64)
    [16, 32, 64, 128, 128]
    """
    halvings = int(math.log2(input_px // START_PX))
    return [width * min(8, 2**level) for level in range(halvings + 1)]


class Generator(nn.Module):
    """Latent vector to image."""

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)[::-1]
        self.start = nn.Linear(latent_dim, plan[0] * START_PX**2)
        pairs = pairwise(plan)
        self.blocks = nn.Sequential(*(WganBlock(a, b, resize="up", per_sample=False) for a, b in pairs))
        self.norm = nn.BatchNorm2d(plan[-1])
        self.to_rgb = nn.Conv2d(plan[-1], 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n 3 h w"]:
        """Images in [-1, 1]."""
        start = self.start(z).view(z.shape[0], -1, START_PX, START_PX)  # [N, 8 * width, 4, 4]
        return F.tanh(self.to_rgb(F.relu(self.norm(self.blocks(start)))))


class Critic(nn.Module):
    """Image to a real number: high on what looks like training data."""

    def __init__(self, *, width: int, input_px: int) -> None:
        super().__init__()
        self.trunk = Trunk(width=width, input_px=input_px)
        self.score = nn.Linear(self.trunk.features, 1)

    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 4 4"]:
        """The last map before the score, which f-AnoGAN compares images by; x in [-1, 1]."""
        maps: Tensor = self.trunk(x)
        return maps

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """X in [-1, 1]."""
        value: Tensor = self.score(self.features(x).flatten(1))
        return value.squeeze(1)


class Trunk(nn.Module):
    """The convolutions that the critic and f-AnoGAN's encoder have in common: image to [N, 8 * width, 4, 4]."""

    def __init__(self, *, width: int, input_px: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)
        self.from_rgb = nn.Conv2d(3, plan[0], 3, padding=1)
        pairs = pairwise(plan)
        self.blocks = nn.Sequential(*(WganBlock(a, b, resize="down", per_sample=True) for a, b in pairs))
        self.features = plan[-1] * START_PX**2

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 4 4"]:
        """X in [-1, 1]."""
        maps: Tensor = self.blocks(self.from_rgb(x))
        return maps
