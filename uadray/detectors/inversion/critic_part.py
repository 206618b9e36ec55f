"""The discriminator or critic of a trained generator, as detectors ask it: each tile by itself.

Those of PGAN, StyleGAN and StyleGAN2 look at how much the pictures of a batch differ (Karras et al. 2018, section 3). A
tile's outcome may not depend on the tiles beside it, so each is judged as a lone picture is, whose deviation is 0. In
training that would be the sign of a collapsed generator: what they say of tiles is lower than there, of all alike.
"""

from collections.abc import Mapping
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.generators.catalog import GeneratorConfig
from uadray.networks import dcgan, growing, stylegan2, wgan_gp

LOGISTIC = ("dcgan", "stylegan", "stylegan2")
"""Kinds whose word is a logit: of the others it is the value of a Wasserstein critic."""


class CriticPart:
    """What tells a generator's pictures from real ones.

    Attributes:
        is_logistic: its word is the logit of "real".

    Args:
        config: of the generator.
        networks: of it, as they score.
    """

    def __init__(self, config: GeneratorConfig, networks: Mapping[str, nn.Module]) -> None:
        self.is_logistic = config.kind in LOGISTIC
        self.network = networks["discriminator" if "discriminator" in networks else "critic"]

    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """The last maps that know nothing of the batch's other tiles; x in [-1, 1]."""
        match self.network:
            case stylegan2.Discriminator() as network:
                return network.maps(x)
            case growing.Discriminator() as network:
                return network.features(_at_level(x, network.growth))
            case network:
                return cast(dcgan.Discriminator | wgan_gp.Critic, network).features(x)

    def word(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """A logit, or a critic's value: high on what looks like training data."""
        match self.network:
            case stylegan2.Discriminator() as network:
                word: Tensor = network(x, group=1)
            case growing.Discriminator() as network:
                word = network(_at_level(x, network.growth), group=1)
            case network:
                word = network(x)
        return word


def _at_level(x: Tensor, growth: growing.Growth) -> Tensor:
    """Tiles at the side that a critic has grown to."""
    return x if x.shape[-1] == growth.side_px else F.interpolate(x, size=(growth.side_px,) * 2, mode="area")
