"""Images to vectors and back: the encoder and decoder of autoencoders whose latent is a vector, and of VAEs.

Convolutions of 4 x 4 with stride 2 down to 4 x 4 pixels, their mirror on the way up, as in DCGAN and the VAEs of
Zimmerer et al. 2019 (https://arxiv.org/abs/1812.05941) and Baur et al. 2018 (https://arxiv.org/abs/1804.04488), the
sizes of which differ. Every layer is normalised tile by tile, in groups of channels, so that a tile's code depends on
no other tile, in training as in scoring.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.dcgan import START_PX, channel_plan
from uadray.networks.layers import group_norm

SLOPE = 0.2


class VectorEncoder(nn.Module):
    """Image to a vector.

    Args:
        width: channels at half the resolution; they double with each halving up to eight times as many.
        input_px: side of the image, a power of two from 16.
        outputs: length of the vector.
    """

    def __init__(self, *, width: int, input_px: int, outputs: int) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)
        self.from_rgb = nn.Conv2d(3, plan[0], 4, stride=2, padding=1)
        self.stages = nn.Sequential(*(_halving(a, b) for a, b in pairwise(plan)))
        self.to_vector = nn.Linear(plan[-1] * START_PX**2, outputs)

    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 4 4"]:
        """The last map before the vector; x in [-1, 1]."""
        maps: Tensor = self.stages(F.leaky_relu(self.from_rgb(x), SLOPE))
        return maps

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n outputs"]:
        """X in [-1, 1]."""
        z: Tensor = self.to_vector(self.features(x).flatten(1))
        return z


class VectorDecoder(nn.Module):
    """The mirror: vector to an image, or to as many numbers at each pixel.

    Args:
        width: channels at half the resolution.
        input_px: side of the image, a power of two from 16.
        latent_dim: length of the vector.
        outputs: numbers at each pixel, 3 of an image in [-1, 1] (not clipped: clipping has no gradient).
    """

    def __init__(self, *, width: int, input_px: int, latent_dim: int, outputs: int = 3) -> None:
        super().__init__()
        plan = channel_plan(width, input_px)[::-1]
        self.start = nn.Linear(latent_dim, plan[0] * START_PX**2)
        self.norm = group_norm(plan[0])
        self.stages = nn.Sequential(*(_doubling(a, b) for a, b in pairwise(plan)))
        self.to_pixels = nn.ConvTranspose2d(plan[-1], outputs, 4, stride=2, padding=1)

    def forward(self, z: Float[Tensor, "n latent"]) -> Float[Tensor, "n outputs h w"]:
        """What lies at each pixel."""
        start = self.start(z).view(len(z), -1, START_PX, START_PX)  # [N, 8 * width, 4, 4]
        pixels: Tensor = self.to_pixels(self.stages(F.leaky_relu(self.norm(start), SLOPE)))
        return pixels


def _halving(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1)
    return nn.Sequential(convolution, group_norm(channels_out), nn.LeakyReLU(SLOPE))


def _doubling(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
    return nn.Sequential(convolution, group_norm(channels_out), nn.LeakyReLU(SLOPE))
