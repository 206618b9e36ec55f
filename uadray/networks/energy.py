"""The energy of an image, by convolutions. https://arxiv.org/abs/1605.07717 (Zhai et al. 2016, sections 2 and 3).

E(x) = 1/2 ||x - b'||^2 - sum of the last layer, with softplus in every layer: an energy that grows with the square of x
wherever the network is nearly linear, so that it has a least value. Its gradient is x - b' less what the network sends
back from its last layer to the image: an autoencoder whose decoder has the weights of its encoder.

Different: sides are halved by strides, so that the energy is smooth everywhere; b' is one colour, not an image, for a
tile of tissue has no places.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.dcgan import START_PX, channel_plan


class Energy(nn.Module):
    """Image to its energy.

    Args:
        width: channels at half the resolution; they double with each halving up to eight times as many.
        input_px: side of the image, a power of two from 16.
        units: of the last layer, which is fully connected.
    """

    def __init__(self, *, width: int, input_px: int, units: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)
        self.colour = nn.Parameter(torch.zeros(3, 1, 1))
        self.stages = nn.ModuleList(_halving(a, b) for a, b in pairwise([3, *plan]))
        self.units = nn.Linear(plan[-1] * START_PX**2, units)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """E(x) of images in [-1, 1], in float32."""
        h = x
        for stage in self.stages:
            h = F.softplus(stage(h))
        last = F.softplus(self.units(h.flatten(1))).float()
        return 0.5 * (x.float() - self.colour).square().flatten(1).sum(1) - last.sum(1)


def _halving(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Beside the edge lie its pixels again: with zeros there, a tile's edge is the worst denoised."""
    return nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1, padding_mode="replicate")
