"""The reconstruction loss of a perceptual autoencoder, term by term, as training loss and as score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors import losses
from uadray.detectors.latents import Latent
from uadray.detectors.scores import picture_of

PixelLoss = Literal["relative_l1", "l1"]


@dataclass(frozen=True)
class Terms:
    """Weights and kinds of the terms.

    Attributes:
        perceptual_weight: of the distance of features; 0 leaves it out, and no features are made.
        relative: divide that distance by the features' own size (Tuluptceva et al. 2020, eq. 2).
        pixel_weight: of the distance of pixels; 0 leaves it out.
        pixel_loss: which distance of pixels.
    """

    perceptual_weight: float = 1.0
    relative: bool = True
    pixel_weight: float = 0.0
    pixel_loss: PixelLoss = "relative_l1"

    def perceptual(self, features: Sequence[Tensor], features_hat: Sequence[Tensor]) -> Float[Tensor, " n"]:
        """Distance of the features of x and x_hat, one [N, C, h, w] a layer; without its weight."""
        distance = losses.relative_perceptual_l1 if self.relative else losses.perceptual_l1
        return distance(features, features_hat)

    def pixel(self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Distance of the pixels of x and x_hat; without its weight."""
        distance = losses.l1 if self.pixel_loss == "l1" else losses.relative_l1
        return distance(x, x_hat)


class TermsScore:
    """The reconstruction loss that was trained, as the authors' code scores (`evaluate` of its repository)."""

    def __init__(self, features: nn.Module, terms: Terms) -> None:
        self.features, self.terms = features, terms

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the weighted sum of the absolute residuals, of features enlarged to the image's side."""
        x_hat, terms = picture_of(x_hat), self.terms
        score = x.new_zeros(len(x))
        residual = x.new_zeros(len(x), 1, *x.shape[2:])
        if terms.pixel_weight:
            score = score + terms.pixel_weight * terms.pixel(x, x_hat)
            residual = residual + terms.pixel_weight * (x - x_hat).abs().mean(1, keepdim=True)
        if terms.perceptual_weight:
            features, features_hat = self.features(x), self.features(x_hat)
            score = score + terms.perceptual_weight * terms.perceptual(features, features_hat)
            for f, f_hat in zip(features, features_hat, strict=True):
                low = (f - f_hat).abs().mean(1, keepdim=True) * terms.perceptual_weight / len(features)
                residual = residual + F.interpolate(low, size=x.shape[2:], mode="bilinear", align_corners=False)
        return score, residual.squeeze(1)
