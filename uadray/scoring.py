"""(x, x_hat) -> how abnormal each tile is, and where. Each class is the `score` stage of a detector.

A score is higher on what looks less like training data. A map has the score's residual by position, at the resolution
where it arises; the page of a slide enlarges it.
"""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.training.losses import izi_f, relative_perceptual_l1


class Score(Protocol):
    """(x, x_hat), each [N, 3, h, w] in [-1, 1] -> (score [N], map [N, h', w'])."""

    def __call__(self, x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and residual maps."""
        ...


class PerceptualScore:
    """Relative perceptual L1 (Tuluptceva et al. 2020, eq. 2), the loss the autoencoder was trained with."""

    def __init__(self, features: nn.Module) -> None:
        self.features = features

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map is the mean absolute feature residual, layers enlarged to the finest of them."""
        features, features_hat = self.features(x), self.features(x_hat)
        maps = [(f - f_hat).abs().mean(1, keepdim=True) for f, f_hat in zip(features, features_hat, strict=True)]
        return relative_perceptual_l1(features, features_hat), _overlaid(maps)


class CosineScore:
    """1 - cos(f(x), f(x_hat)) at each position, mean over positions and layers.

    Deng and Li 2022, "Anomaly Detection via Reverse Distillation from One-Class Embedding", eq. 1.
    """

    def __init__(self, features: nn.Module) -> None:
        self.features = features

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map is 1 - cos by position, layers enlarged to the finest of them."""
        pairs = zip(self.features(x), self.features(x_hat), strict=True)
        maps = [1 - F.cosine_similarity(f, f_hat, dim=1).unsqueeze(1) for f, f_hat in pairs]
        score = torch.stack([m.flatten(1).mean(1) for m in maps]).mean(0)
        return score, _overlaid(maps)


class IziScore:
    """izi_f: image residual plus kappa times critic-feature residual (Schlegl et al. 2019, eq. 5)."""

    def __init__(self, critic: nn.Module, *, kappa: float) -> None:
        self.trunk, self.kappa = critic.get_submodule("trunk"), kappa

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the absolute residual of the image, as the paper localises."""
        score = izi_f(x, x_hat, self.trunk(x), self.trunk(x_hat), kappa=self.kappa)
        return score, (x - x_hat).abs().mean(1)


def _overlaid(maps: list[Tensor]) -> Tensor:
    """Mean of residual maps [N, 1, h, w] of several layers, enlarged to the finest: [N, h', w']."""
    side = max(tuple(m.shape[-2:]) for m in maps)
    same = [F.interpolate(m, size=side, mode="bilinear", align_corners=False) for m in maps]
    return torch.stack(same).mean(0).squeeze(1)
