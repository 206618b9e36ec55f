"""Variational autoencoder with a discriminator (VAE-GAN, AnoVAEGAN). https://arxiv.org/abs/1804.04488 .

Baur, Wiestler, Albarqouni and Navab 2018.

As in the paper: encoder and decoder learn by three terms, the absolute residual of the reconstruction, the KL
divergence of the latent from its prior, and deceiving a discriminator that tells images from reconstructions. The
latent is spatial, 64 channels at an image halved four times; a vector, which the paper compares with, can be asked for.
An image is reconstructed from the latent's mean. The score is the absolute residual: its mean over a tile, or ("above")
the share of pixels where it is above a threshold, the 98th percentile of the pixels of normal tiles.

Different: the paper's text could not be opened, and its sizes and percentile were not checked against it; training
follows the authors' later code (of Baur et al. 2021, https://arxiv.org/abs/2004.03271). As in that code residuals and
KL are summed over an image, their weights are 1, and the decoder alone takes steps of its own to deceive the
discriminator; one weighted sum of the three terms can be asked for (`adversarial_weight`), in which a weight of 1 is
nothing beside residuals of some thousand pixels. The discriminator's loss is the logistic one, in that code a
Wasserstein critic's, and it takes one step where that takes five; so the decoder's own steps are as small as the
discriminator's (as large as those of the reconstruction, they undid it: DECISIONS). Images lie in [-1, 1], so that
residuals weigh twice as much beside the other terms as in [0, 1]. Nothing is normalised by batch: the networks of a
spatial latent (`uadray.networks.autoencoder`) have no normalisation, the others are normalised tile by tile. Of brains
the paper takes brighter residuals alone, filters them by medians and cuts them to the brain; none of that is done.

What it assumes: what is abnormal cannot be repeated by a network whose latents are kept to those of normal tiles, and
whose pictures are kept to what normal tiles look like.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.inversion.generator_part import steps_for_last
from uadray.detectors.latents import Latent, LatentMap
from uadray.detectors.likelihood.gaussians import gaussian_of, kl_to_standard_normal, reparameterised
from uadray.detectors.likelihood.judging import Discriminator, Judging
from uadray.detectors.likelihood.residual_threshold import ResidualThreshold
from uadray.detectors.likelihood.vae_part import vae_networks
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import Average, Losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.autoencoder import Decoder, Encoder, Layout
from uadray.networks.outline import Networks

BETAS = (0.5, 0.9)
"""Of Adam (authors' code)."""

THRESHOLD_FRACTION = 0.05
"""Of the steps, which count the residuals of normal tiles where a threshold is told from them."""


class Config(configuration.Config):
    """VAE-GAN.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at full resolution with a spatial latent, else at half of it; of the discriminator at half.
        latent: what z is.
        latent_dim: channels of z, or its length.
        halvings: of the image's side to that of a spatial z.
        reconstruction_weight: of the absolute residual, summed over an image.
        kl_weight: of the KL divergence, summed over z.
        adversarial_weight: of the discriminator's term in one sum with the others; None: a step of the decoder's own.
        learning_rate: of encoder and decoder.
        discriminator_learning_rate: of the discriminator, and of the decoder's own step against it.
        score: the mean residual, or the share of a tile's pixels that lie above the threshold.
        percentile: of the residuals of normal tiles, which is the threshold.
    """

    kind: Literal["vae_gan"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent: Literal["spatial", "vector"] = "spatial"
    latent_dim: int = Field(default=64, ge=1, le=4096)
    halvings: int = Field(default=4, ge=1, le=6)
    reconstruction_weight: float = Field(default=1.0, gt=0, le=1e6)
    kl_weight: float = Field(default=1.0, ge=0, le=1e6)
    adversarial_weight: float | None = Field(default=None, ge=0, le=1e6)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    discriminator_learning_rate: float = Field(default=1e-4, gt=0, le=10)
    score: Literal["residual", "above"] = "residual"
    percentile: float = Field(default=98.0, gt=0, lt=100)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        check_side(self.input_px)
        if self.latent == "spatial" and self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times")
        return self

    @property
    def least_steps(self) -> int:
        """Steps of a training in which a threshold is told."""
        return steps_for_last(THRESHOLD_FRACTION) if self.score == "above" else 1


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder (mean and log variance of z), decoder, discriminator, and the threshold where the score has one."""
    result = _autoencoder(config)
    result["discriminator"] = Discriminator(width=config.width, input_px=config.input_px)
    if config.score == "above":
        result["threshold"] = ResidualThreshold()
    return result


def _autoencoder(config: Config) -> Networks:
    if config.latent == "vector":
        vae = vae_networks(width=config.width, input_px=config.input_px, latent_dim=config.latent_dim)
        return {"encoder": vae["encoder"], "decoder": vae["decoder"]}
    layouts = [
        Layout(width=config.width, halvings=config.halvings, latent_channels=channels, batch_norm=False)
        for channels in (2 * config.latent_dim, config.latent_dim)
    ]
    return {"encoder": Encoder(layouts[0]), "decoder": Decoder(layouts[1])}


def vae_gan_loss(
    x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"], mean: Float[Tensor, "n ..."],
    log_variance: Float[Tensor, "n ..."],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:  # fmt: skip
    """The first two terms, one value a sample: |x - x_hat| summed over pixels and colours, and KL(q(z | x) || p(z))."""
    return (x - x_hat).abs().flatten(1).sum(1), kl_to_standard_normal(mean, log_variance)


class AbsoluteResidual:
    """The mean absolute residual of the image, or the share of pixels where it is above a threshold."""

    def __init__(self, threshold: ResidualThreshold | None) -> None:
        self.threshold = threshold

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the absolute residual, its mean over colours.

        Raises:
            WorkError: no threshold was told.
        """
        residual = (x - picture_of(x_hat)).abs().mean(1)
        return residual.flatten(1).mean(1) if self.threshold is None else self.threshold.share_above(residual), residual


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder's mean, decoder, absolute residual."""
    return assemble(
        networks,
        mapping=lambda placed: mean_of(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: AbsoluteResidual(_threshold(placed) if config.score == "above" else None),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


def mean_of(encoder: nn.Module) -> LatentMap:
    """The stage `map`: the mean of z, of which nothing is drawn."""
    return lambda x: gaussian_of(encoder(x))[0].contiguous()


def _threshold(networks: Mapping[str, nn.Module]) -> ResidualThreshold:
    threshold = networks["threshold"]
    if not isinstance(threshold, ResidualThreshold):
        raise TypeError(f"threshold: expected ResidualThreshold, found {type(threshold).__name__}")
    return threshold


class Trainee:
    """Steps of the discriminator, of encoder and decoder, and of the decoder; at the end residuals may be counted."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.threshold = _threshold(networks) if config.score == "above" else None
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.judging = Judging(
            networks["discriminator"], rate=config.discriminator_learning_rate, betas=BETAS, average=average
        )  # fmt: skip
        self.optimizers: dict[str, Optimizer] = {
            "autoencoder": self._adam(self.parameters, config.learning_rate),
            "discriminator": self.judging.optimizer,
        }
        if config.adversarial_weight is None:
            self.optimizers["decoder"] = self._adam(list(self.decoder.parameters()), config.discriminator_learning_rate)
        self.counts: dict[str, int] = {}
        self.phases: tuple[str, ...] = ("adversarial", *(("threshold",) if self.threshold else ()))

    def _adam(self, parameters: list[nn.Parameter], rate: float) -> Adam:
        return Adam(parameters, lr=rate, betas=BETAS, fused=parameters[0].is_cuda or None)

    def phase(self, progress: float) -> str:
        """`threshold` for the last steps, if one is told."""
        return self.phases[-1] if progress >= 1 - THRESHOLD_FRACTION else self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that encoder and decoder learn by."""
        return "" if self.phase(progress) == "threshold" else "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing is fitted before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of all three on x [N, 3, h, w] in [-1, 1], or a count of its residuals."""
        if self.threshold is not None and self.phase(progress) == "threshold":
            return self._count(self.threshold, x)
        mean, log_variance = gaussian_of(self.encoder(x).float())
        z = reparameterised(mean, log_variance, torch.randn_like(mean))
        x_hat = self.decoder(z)
        losses = self.judging.learn(x, x_hat) | self._autoencoder_step(x, x_hat, mean, log_variance)
        return losses | (self._decoder_step(z.detach()) if self.config.adversarial_weight is None else {})

    def _autoencoder_step(self, x: Tensor, x_hat: Tensor, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
        """Repeat x with a latent as the prior's, and where there is a weight for it deceive the discriminator too."""
        config = self.config
        residual, kl = (term.mean() for term in vae_gan_loss(x, x_hat, mean, log_variance))
        losses = {"residual": residual.detach(), "kl": kl.detach()}
        loss = config.reconstruction_weight * residual + config.kl_weight * kl
        if config.adversarial_weight is not None:
            adversarial = self.judging.term(x_hat)
            loss = loss + config.adversarial_weight * adversarial
            losses["adversarial"] = adversarial.detach()
        update(self.optimizers["autoencoder"], self.parameters, loss, self.average)
        return losses

    def _decoder_step(self, z: Tensor) -> dict[str, Tensor]:
        """Deceive the discriminator with pictures of the same latents z [N, ...]."""
        torch.clear_autocast_cache()  # it has the decoder as it was before its step
        adversarial = self.judging.term(self.decoder(z))
        update(self.optimizers["decoder"], list(self.decoder.parameters()), adversarial, self.average)
        return {"adversarial": adversarial.detach()}

    @torch.no_grad()
    def _count(self, threshold: ResidualThreshold, x: Tensor) -> dict[str, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            residual = (x.float() - self.reconstruct(x.float())).abs().mean(1)
        threshold.count(residual, self.average)
        return {"mean_residual": residual.mean()}

    def finish(self) -> None:
        """Tell the threshold."""
        if self.threshold is not None:
            self.threshold.fit(self.config.percentile)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the mean of what was encoded."""
        x_hat: Tensor = self.decoder(gaussian_of(self.encoder(x))[0])
        return x_hat
