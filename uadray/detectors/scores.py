"""(x, x_hat, z) -> how abnormal each tile is, and where. Each class is the `score` stage of a detector.

A score is higher on what looks less like training data. A map has the score's residual by position, at the resolution
where it arises; the page of a slide enlarges it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors.latents import Latent

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Features of x and of x_hat, one map a layer -> [N]."""


Difference = Literal["absolute", "squared"]


class Score(Protocol):
    """(x, x_hat, z) -> (score [N], map [N, h', w']).

    x is [N, 3, h, w] in [-1, 1], and so is x_hat, which is None where the detector makes no picture; z is what the
    detector mapped x to. A score that needs x_hat may take for granted that it is there.
    """

    def __call__(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        """Scores and residual maps."""
        ...


class PerceptualScore:
    """Relative perceptual distance (Tuluptceva et al. 2020, eq. 2): L1, the training loss, or L2."""

    def __init__(self, features: nn.Module, *, distance: Distance) -> None:
        self.features, self.distance = features, distance

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map is the mean absolute feature residual, layers enlarged to the finest of them."""
        features, features_hat = self.features(x), self.features(picture_of(x_hat))
        maps = [(f - f_hat).abs().mean(1, keepdim=True) for f, f_hat in zip(features, features_hat, strict=True)]
        return self.distance(features, features_hat), overlaid(maps)


class PixelResidual:
    """Mean |x - x_hat|, or mean of its square, over pixels and colours."""

    def __init__(self, difference: Difference) -> None:
        self.difference = difference

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the same of each pixel, a mean over colours."""
        difference = x - picture_of(x_hat)
        residual = (difference.abs() if self.difference == "absolute" else difference.square()).mean(1)
        return residual.flatten(1).mean(1), residual


def picture_of(x_hat: Tensor | None) -> Tensor:
    """The reconstruction that a score needs.

    Raises:
        ValueError: there is none: stages of two detectors were put together.
    """
    if x_hat is None:
        raise ValueError("this score compares a tile with its reconstruction, and got none")
    return x_hat


def unlikeliness(word: Float[Tensor, " n"], *, is_logistic: bool) -> Float[Tensor, " n"]:
    """How little a tile looks like training data to the discriminator (P_D of Schlegl et al. 2017, section 3).

    Args:
        word: of the tile: the logit of "real", or a critic's value.
        is_logistic: it is a logit.

    Returns:
        1 - D(x), 0 to 1; of a critic its value with the other sign.
    """
    return torch.sigmoid(-word) if is_logistic else -word


def reference_discrimination(word_hat: Float[Tensor, " n"], *, is_logistic: bool) -> Float[Tensor, " n"]:
    """The discrimination loss that AnoGAN is compared with (GAN_R; Yeh et al. 2016, https://arxiv.org/abs/1607.07539).

    Args:
        word_hat: of the closest normal picture: the logit of "real", or a critic's value.
        is_logistic: it is a logit.

    Returns:
        Cross entropy of D(x_hat) with the answer "real", -log D(x_hat); of a critic its value with the other sign.
    """
    return F.softplus(-word_hat) if is_logistic else -word_hat


def overlaid(maps: Sequence[Tensor]) -> Tensor:
    """Mean of residual maps [N, 1, h, w] of several layers, enlarged to the finest: [N, h', w']."""
    return torch.stack(enlarged(maps)).mean(0).squeeze(1)


def enlarged(maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps [N, 1, h, w], each enlarged to the finest of them."""
    side = max(tuple(m.shape[-2:]) for m in maps)
    return [F.interpolate(m, size=side, mode="bilinear", align_corners=False) for m in maps]


def mean_of_highest(cells: Float[Tensor, "n h w"], share: float) -> Float[Tensor, " n"]:
    """Mean of the highest share of a tile's cells, of one at the least: near 0 it is the maximum, 1 is the mean."""
    flat = cells.flatten(1)
    return flat.topk(max(1, round(share * flat.shape[1])), 1).values.mean(1)
