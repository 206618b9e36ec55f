"""(x, x_hat, z) -> the anomaly score of f-AnoGAN and its parts, with the residual of the image by position.

https://doi.org/10.1016/j.media.2019.01.010 (Schlegl et al. 2019, the section on detection).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.inversion.ali import PairDiscriminator
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.encoder_losses import feature_residual, izi
from uadray.detectors.latents import Latent
from uadray.detectors.scores import picture_of
from uadray.generators.catalog import GeneratorConfig

ScoreKind = Literal["izi_f", "image", "features", "word"]

Asked = Callable[[Tensor, Any], Tensor]
"""What a discriminator makes of tiles and the latents that they were mapped to."""


class EncoderScore:
    """A(x) = A_R(x) + kappa A_D(x), or a part of it.

    Args:
        features: the maps that A_D compares.
        word: high on what looks like training data.
        kind: "izi_f" is A(x), "image" A_R and "features" A_D alone; "word" is what the discriminator says of the tile
            itself, negated, which needs no mapping.
        kappa: weight of A_D.
    """

    def __init__(self, features: Asked, word: Asked, *, kind: ScoreKind, kappa: float) -> None:
        self.features, self.word, self.kind, self.kappa = features, word, kind, kappa

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the absolute residual of the image, as the paper localises."""
        x_hat = picture_of(x_hat)
        residual = (x - x_hat).abs().mean(1)
        if self.kind == "word":
            return -self.word(x, z), residual
        score = izi(x, x_hat) if self.kind in ("izi_f", "image") else x.new_zeros(len(x))
        if self.kind in ("izi_f", "features"):
            weight = self.kappa if self.kind == "izi_f" else 1.0
            score = score + weight * feature_residual(self.features(x, z), self.features(x_hat, z))
        return score, residual


def encoder_score(
    config: GeneratorConfig, networks: Mapping[str, nn.Module], *, kind: ScoreKind, kappa: float
) -> EncoderScore:
    """The score by the generator's own discriminator or critic, or by that of pairs (x, z) where ALI has trained one.

    Args:
        config: of the generator.
        networks: as they score.
        kind: see `EncoderScore`.
        kappa: see `EncoderScore`.
    """
    if "pair_discriminator" in networks:
        pairs = cast(PairDiscriminator, networks["pair_discriminator"])
        return EncoderScore(pairs.features, pairs, kind=kind, kappa=kappa)
    critic = CriticPart(config, networks)
    return EncoderScore(
        lambda x, z: critic.features(x), lambda x, z: critic.word(x), kind=kind, kappa=kappa
    )  # fmt: skip
