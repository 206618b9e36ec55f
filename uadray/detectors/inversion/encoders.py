"""Image -> latent of a generator, in one pass: the encoders that f-AnoGAN trains.

Each is the critic of f-AnoGAN's WGAN-GP with a latent for output (Schlegl et al. 2019), whatever the generator is.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors.inversion.latent_space import LatentSpace, Space
from uadray.generators import dcgan
from uadray.generators.catalog import GeneratorConfig
from uadray.networks.wgan_gp import Trunk


class IziEncoder(nn.Module):
    """Image to z.

    Args:
        width: channels at full resolution.
        input_px: side of the image.
        latent_dim: length of z.
        is_bounded: z lies in [-1, 1], as that of a generator with a uniform prior does.
    """

    def __init__(self, *, width: int, input_px: int, latent_dim: int, is_bounded: bool = False) -> None:
        super().__init__()
        self.trunk = Trunk(width=width, input_px=input_px)
        self.to_latent = nn.Linear(self.trunk.features, latent_dim)
        self.is_bounded = is_bounded

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent"]:
        """X in [-1, 1]."""
        z: Tensor = self.to_latent(self.trunk(x).flatten(1))
        return F.tanh(z) if self.is_bounded else z


class StyleEncoder(nn.Module):
    """Image to one w for all layers of a style-based generator.

    What the network gives is in units of the spread of w around its mean, so that an untrained encoder already points
    to where w lies; both are taken from the generator by `centre`, once it is trained.

    Args:
        width: channels at full resolution.
        input_px: side of the image.
        w_dim: length of w.
    """

    mean_w: Tensor
    spread: Tensor

    def __init__(self, *, width: int, input_px: int, w_dim: int) -> None:
        super().__init__()
        self.trunk = Trunk(width=width, input_px=input_px)
        self.to_latent = nn.Linear(self.trunk.features, w_dim)
        self.register_buffer("mean_w", torch.zeros(1, w_dim))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 dim"]:
        """X in [-1, 1]."""
        w: Tensor = self.mean_w + self.spread * self.to_latent(self.trunk(x).flatten(1))[:, None]
        return w

    def centre(self, space: LatentSpace) -> None:
        """Take the mean of w, and its root mean square deviation of one coordinate, from a trained generator."""
        self.mean_w.copy_(space.mean())
        self.spread.fill_(space.deviation() / space.shape[-1] ** 0.5)


def encoder_of(config: GeneratorConfig, *, width: int, space: Space) -> nn.Module:
    """An untrained encoder into z or w of a generator."""
    if space == "w":
        return StyleEncoder(width=width, input_px=config.input_px, w_dim=getattr(config, "w_dim", 0))
    is_bounded = isinstance(config, dcgan.Config) and config.prior == "uniform"
    return IziEncoder(width=width, input_px=config.input_px, latent_dim=config.latent_dim, is_bounded=is_bounded)
