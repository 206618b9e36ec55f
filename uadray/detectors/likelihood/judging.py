"""A discriminator that judges reconstructions, and scores by what it has learned.

Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, eq. 1, with reconstructions in place of generated pictures; the
autoencoder's term is the one that does not saturate (section 3). Scores: f-AnoGAN's A_R and A_D
(https://doi.org/10.1016/j.media.2019.01.010), AnoGAN's P_D and reference (https://arxiv.org/abs/1703.05921, section 3).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam

from uadray.detectors.gradient_steps import update
from uadray.detectors.inversion.encoder_losses import feature_residual, izi
from uadray.detectors.latents import Latent
from uadray.detectors.scores import picture_of, reference_discrimination, unlikeliness
from uadray.detectors.trainee import Average
from uadray.generators import gan_losses
from uadray.networks.coding import VectorEncoder

JudgedKind = Literal["image", "features", "sum", "word", "reference"]


class Discriminator(nn.Module):
    """Image to a logit: high on normal tiles, low on reconstructions. It sees each tile by itself.

    Attributes:
        is_logistic: its word is a logit.

    Args:
        width: channels at half the resolution.
        input_px: side of the image, a power of two from 16.
    """

    is_logistic = True

    def __init__(self, *, width: int, input_px: int) -> None:
        super().__init__()
        self.trunk = VectorEncoder(width=width, input_px=input_px, outputs=1)

    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 4 4"]:
        """The last map before the logit, by which A_D compares; x in [-1, 1]."""
        return self.trunk.features(x)

    def word(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """The logit."""
        logit: Tensor = self(x)
        return logit

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """X in [-1, 1]."""
        logit: Tensor = self.trunk(x)
        return logit.squeeze(1)


class Judging:
    """How the discriminator learns, and what it adds to an autoencoder's loss.

    Args:
        discriminator: of images.
        rate: of Adam.
        betas: of Adam.
        average: over the workers.
    """

    def __init__(
        self, discriminator: nn.Module, *, rate: float, betas: tuple[float, float], average: Average
    ) -> None:  # fmt: skip
        self.discriminator, self.average = discriminator, average
        self.parameters = list(discriminator.parameters())
        self.optimizer = Adam(self.parameters, lr=rate, betas=betas, fused=self.parameters[0].is_cuda or None)

    def learn(self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        """Tell images from their reconstructions, which get no gradient; the loss, and how often it is right."""
        real, fake = self.discriminator(x), self.discriminator(x_hat.detach())
        loss = gan_losses.logistic_discriminator_loss(real, fake)
        update(self.optimizer, self.parameters, loss, self.average)
        torch.clear_autocast_cache()  # it has the discriminator as it was before its step
        accuracy = torch.cat([real > 0, fake < 0]).float().mean()
        return {"discriminator": loss.detach(), "discriminator_accuracy": accuracy}

    def term(self, x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        """-E[log D(x_hat)], the discriminator standing still."""
        self.discriminator.requires_grad_(False)
        loss = gan_losses.logistic_generator_loss(self.discriminator(x_hat))
        self.discriminator.requires_grad_(True)
        return loss


class JudgedScore:
    """Scores of tiles and their reconstructions by residuals and by the discriminator.

    Args:
        discriminator: as it scores.
        kind: "image" is A_R, the mean squared residual of the image, "features" A_D, that of the discriminator's last
            map, "sum" A_R + kappa A_D. "word" is P_D = 1 - D(x), of the tile alone; "reference" -log D(x_hat), of the
            reconstruction alone.
        kappa: weight of A_D.
    """

    def __init__(self, discriminator: Discriminator, *, kind: JudgedKind, kappa: float) -> None:
        self.discriminator, self.kind, self.kappa = discriminator, kind, kappa

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the absolute residual of the image, its mean over colours, as the papers localise."""
        x_hat = picture_of(x_hat)
        return self._value(x, x_hat), (x - x_hat).abs().mean(1)

    def _value(self, x: Tensor, x_hat: Tensor) -> Tensor:
        match self.kind:
            case "image":
                return izi(x, x_hat)
            case "features":
                return self._of_features(x, x_hat)
            case "sum":
                return izi(x, x_hat) + self.kappa * self._of_features(x, x_hat)
            case "word":
                return unlikeliness(self.discriminator(x), is_logistic=True)
            case "reference":
                return reference_discrimination(self.discriminator(x_hat), is_logistic=True)

    def _of_features(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return feature_residual(self.discriminator.features(x), self.discriminator.features(x_hat))
