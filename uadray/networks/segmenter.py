"""Image to one number at each pixel: an encoder and a decoder of residual blocks, without connections past the latent.

In the manner of the wide residual encoder-decoder of Tan et al. 2020 (https://arxiv.org/abs/2011.04197) and of the
residual one of Schlüter et al. 2022 (https://arxiv.org/abs/2109.15222). Every tile is normalised by itself. The first
convolution halves the side, and the decoder ends there: the map is enlarged, linearly.
"""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.layers import WganBlock

WIDEST = 4
"""Channels double with each halving up to so many times the width."""

PRIOR = 0.05
"""What the map says everywhere before it has learned, as a probability: most pixels belong where they are, and the
first steps need not learn that (Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 3.3)."""


def channels_of(width: int, halvings: int) -> list[int]:
    """Channels after each halving of the side.

    >>> channels_of(8, 4)
    [8, 16, 32, 32]
    """
    return [width * min(2**level, WIDEST) for level in range(halvings)]


class MapEncoder(nn.Module):
    """Image to the deepest map of features.

    Args:
        width: channels at half the resolution.
        halvings: of the side, down to the deepest map.
    """

    def __init__(self, *, width: int, halvings: int) -> None:
        super().__init__()
        plan = channels_of(width, halvings)
        self.channels = plan[-1]
        self.stem = nn.Conv2d(3, plan[0], 3, stride=2, padding=1)
        self.blocks = nn.Sequential(
            WganBlock(plan[0], plan[0], resize="none", per_sample=True),
            *(WganBlock(a, b, resize="down", per_sample=True) for a, b in pairwise(plan)),
            WganBlock(plan[-1], plan[-1], resize="none", per_sample=True),
        )

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """X in [-1, 1]; the sides must be multiples of 2 ** halvings."""
        features: Tensor = self.blocks(self.stem(x))
        return features


class MapDecoder(nn.Module):
    """The deepest map of features to one map at the resolution of the image: logits, say."""

    def __init__(self, *, width: int, halvings: int) -> None:
        super().__init__()
        plan = channels_of(width, halvings)[::-1]
        self.blocks = nn.Sequential(*(WganBlock(a, b, resize="up", per_sample=True) for a, b in pairwise(plan)))
        self.norm = nn.GroupNorm(1, plan[-1])
        self.to_map = nn.Conv2d(plan[-1], 1, 3, padding=1)
        nn.init.constant_(self.to_map.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "n c h2 w2"]) -> Float[Tensor, "n 1 h w"]:
        """Any number at each pixel."""
        half = self.to_map(F.relu(self.norm(self.blocks(features))))
        return F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
