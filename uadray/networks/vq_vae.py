"""Encoder and decoder of the VQ-VAE: an image to a grid of vectors, and back.

van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, section 4.1: convolutions of 4 x 4 with stride 2, then two
residual blocks (ReLU, 3 x 3, ReLU, 1 x 1), no normalisation; the decoder is the mirror. The paper halves twice, at 256
channels everywhere; here channels double with each halving, up to four times the first's, which at tiles of 64 px costs
a sixth of that.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = 2
"""Residual ones at the side of the grid (section 4.1)."""

WIDEST = 4
"""Times the first width, to which channels double."""


class ResidualBlock(nn.Module):
    """ReLU, 3 x 3 convolution, ReLU, 1 x 1 convolution, beside the identity (section 4.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The block's output."""
        total: Tensor = h + self.conv1(F.relu(self.conv3(F.relu(h))))
        return total


def widths(width: int, halvings: int) -> list[int]:
    """Channels after each halving.

    >>> widths(16, 4)
    [16, 32, 64, 64]
    """
    return [width * min(2**k, WIDEST) for k in range(halvings)]


class Encoder(nn.Module):
    """Image to a grid of vectors, which the codebook quantises.

    Args:
        width: channels at half the resolution.
        halvings: of the side, down to the grid.
        code_dim: length of a vector.
    """

    def __init__(self, *, width: int, halvings: int, code_dim: int) -> None:
        super().__init__()
        plan = widths(width, halvings)
        self.halving = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise([3, *plan]))
        self.blocks = nn.Sequential(*(ResidualBlock(plan[-1]) for _ in range(BLOCKS)))
        self.to_codes = nn.Conv2d(plan[-1], code_dim, 1)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d h2 w2"]:
        """X in [-1, 1]; the sides must be multiples of 2 ** halvings."""
        for number, convolution in enumerate(self.halving):
            x = convolution(x if number == 0 else F.relu(x))
        h: Tensor = self.to_codes(F.relu(self.blocks(x)))
        return h


class Decoder(nn.Module):
    """The mirror: a grid of vectors to an image."""

    def __init__(self, *, width: int, halvings: int, code_dim: int) -> None:
        super().__init__()
        plan = widths(width, halvings)[::-1]
        self.from_codes = nn.Conv2d(code_dim, plan[0], 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(plan[0]) for _ in range(BLOCKS)))
        self.doubling = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairwise([*plan, 3]))

    def forward(self, q: Float[Tensor, "n d h w"]) -> Float[Tensor, "n 3 h2 w2"]:
        """The reconstruction, nominally in [-1, 1] (not clipped: clipping has no gradient)."""
        h: Tensor = self.blocks(self.from_codes(q))
        for convolution in self.doubling:
            h = convolution(F.relu(h))
        return h
