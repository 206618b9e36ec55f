"""Deep perceptual autoencoder. https://arxiv.org/abs/2006.13265 .

Tuluptceva et al. 2020, "Anomaly Detection with Deep Perceptual Autoencoders".

As in the paper: a convolutional autoencoder of pre-activation residual blocks with a small spatial bottleneck, trained
with the relative perceptual L1 loss on frozen features (see `uadray.detectors.losses`), and the same loss as score.
Different: no progressive growing (the resolution is fixed), nearest-neighbour upsampling, a linear output.
"""

from jaxtyping import Float
from torch import Tensor, nn

from uadray.networks.layers import PreActivationBlock

WIDEST = 64
"""Channels stop doubling here: at 64 px the bottleneck, not the width, is what keeps anomalies out."""


def widths(width: int, halvings: int) -> list[int]:
    """Channels after each halving of the side.

    >>> widths(16, 3)
    [16, 32, 64]
    """
    return [min(width * 2**level, WIDEST) for level in range(halvings)]


class Encoder(nn.Module):
    """Image to a spatial latent: `halvings` times a block and a 2x2 mean, then 1x1 to the latent's channels."""

    def __init__(self, *, width: int, halvings: int, latent_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        channels = width
        for wider in widths(width, halvings):
            layers += [PreActivationBlock(channels, wider), nn.AvgPool2d(2)]
            channels = wider
        layers += [PreActivationBlock(channels, channels), nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, latent_channels, 1))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent h2 w2"]:
        """X in [-1, 1]; the sides must be multiples of 2 ** halvings."""
        z: Tensor = self.layers(x)
        return z


class Decoder(nn.Module):
    """The encoder's mirror: latent to image."""

    def __init__(self, *, width: int, halvings: int, latent_channels: int) -> None:
        super().__init__()
        channels = widths(width, halvings)[-1]
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, channels, 1), PreActivationBlock(channels, channels)]
        for narrower in reversed(widths(width, halvings)):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), PreActivationBlock(channels, narrower)]
            channels = narrower
        layers += [nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, z: Float[Tensor, "n latent h2 w2"]) -> Float[Tensor, "n 3 h w"]:
        """The reconstruction, nominally in [-1, 1] (not clipped: clipping has no gradient)."""
        x_hat: Tensor = self.layers(z)
        return x_hat
