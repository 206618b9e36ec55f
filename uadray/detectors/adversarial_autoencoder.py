"""Adversarial convolutional autoencoder (AdvAE, aCAE). https://doi.org/10.1016/j.media.2019.01.010 .

Schlegl et al. 2019, the section on the comparison with alternative approaches; the same as the aCAE of Schlegl et al.
2017, https://arxiv.org/abs/1703.05921, section 3, which is the context encoder of Pathak et al. 2016,
https://arxiv.org/abs/1604.07379, of whole images.

As in the papers: an autoencoder learns by the squared error of its reconstruction and by deceiving a discriminator,
weighed 0.999 to 0.001; the discriminator learns to tell tiles from reconstructions. Scores are those of f-AnoGAN and
AnoGAN: A_R + kappa A_D ("sum"), each alone ("image", "features"), P_D ("word"), and the reference discrimination loss
("reference"), see `uadray.detectors.likelihood.judging`. Adam's beta1 is 0.5, and the autoencoder learns ten times as
fast as the discriminator (Pathak et al. 2016, section 4).

Different: nothing is masked, as in the aCAE. Layers are normalised tile by tile in groups of channels
(`uadray.networks.coding`; in the papers by batch), so that the discriminator judges every tile as if it were alone. The
score may be in deviations from normal tiles (`terms`, see `uadray.detectors.inversion.terms`). The text of Schlegl et
al. 2019 could not be opened.

What it assumes: what is abnormal cannot be repeated by a network that squeezes tiles through a short vector and has
learned to draw normal ones alone; or it looks to the discriminator as a bad reconstruction does.
"""

from collections.abc import Collection, Mapping
from typing import Literal, cast

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.inversion.encoder_losses import izi
from uadray.detectors.inversion.generator_part import steps_for_last
from uadray.detectors.inversion.terms import (
    NormalsFit,
    TermConfig,
    TermsScore,
    prepare_terms,
    term_networks,
    term_weights,
)
from uadray.detectors.latents import EncoderMap
from uadray.detectors.likelihood.judging import Discriminator, JudgedKind, JudgedScore, Judging
from uadray.detectors.trainee import Average, Losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks

BETAS = (0.5, 0.999)

NORMALS_FRACTION = 0.05
"""Of the steps, which normalise terms, as in f-AnoGAN."""


class Config(configuration.Config):
    """Adversarial autoencoder.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at half the resolution, of all three networks.
        latent_dim: length of z.
        reconstruction_weight: of the mean squared error (Pathak et al. 2016: 0.999).
        adversarial_weight: of the discriminator's term (there: 0.001).
        learning_rate: of encoder and decoder.
        discriminator_learning_rate: of the discriminator.
        score: "sum" is A_R + kappa A_D; unless said otherwise.
        kappa: weight of A_D in the sum (Schlegl et al. 2019: 1).
        terms: in place of the score, see `uadray.detectors.inversion.terms`; the last twentieth of the steps
            normalises them.
    """

    kind: Literal["adversarial_autoencoder"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=128, ge=2, le=4096)
    reconstruction_weight: float = Field(default=0.999, gt=0, le=1e6)
    adversarial_weight: float = Field(default=0.001, ge=0, le=1e6)
    learning_rate: float = Field(default=2e-3, gt=0, le=10)
    discriminator_learning_rate: float = Field(default=2e-4, gt=0, le=10)
    score: JudgedKind | None = None
    kappa: float = Field(default=1.0, ge=0, le=1e6)
    terms: tuple[TermConfig, ...] | None = Field(default=None, min_length=1, max_length=16)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        check_side(self.input_px)
        if self.terms is not None and self.score is not None:
            raise ValueError(f"terms take the place of the score; leave out score {self.score}")
        return self

    @property
    def least_steps(self) -> int:
        """Steps of a training in which terms are normalised."""
        return 1 if self.terms is None else steps_for_last(NORMALS_FRACTION)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """What the terms need."""
    return term_weights(config.terms or ())


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder, decoder, discriminator, and what the terms need.

    Raises:
        InputError: pinned weights do not fit.
        WorkError: pinned weights cannot be had.
    """
    sizes = {"width": config.width, "input_px": config.input_px}
    result: Networks = {
        "encoder": VectorEncoder(**sizes, outputs=config.latent_dim),
        "decoder": VectorDecoder(**sizes, latent_dim=config.latent_dim),
        "discriminator": Discriminator(**sizes),
    }
    if config.terms is None:
        return result
    return result | term_networks(config.terms, input_px=config.input_px, pretrained=pretrained)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, decoder, one of the scores or terms."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: score_of(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


def score_of(config: Config, networks: Mapping[str, nn.Module]) -> JudgedScore | TermsScore:
    """The stage `score`."""
    discriminator = cast(Discriminator, networks["discriminator"])
    if config.terms is not None:
        return TermsScore(config.terms, networks, discriminator)
    return JudgedScore(discriminator, kind=config.score or "sum", kappa=config.kappa)


class Trainee:
    """A step of the discriminator, then one of encoder and decoder; at the end the terms, where there are some."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        discriminator = cast(Discriminator, networks["discriminator"])
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.judging = Judging(discriminator, rate=config.discriminator_learning_rate, betas=BETAS, average=average)
        self.optimizers: dict[str, Optimizer] = {
            "autoencoder": Adam(
                self.parameters, lr=config.learning_rate, betas=BETAS, fused=self.parameters[0].is_cuda or None
            ),
            "discriminator": self.judging.optimizer,
        }
        self.counts: dict[str, int] = {}
        self.normals = None if config.terms is None else NormalsFit(config.terms, networks, discriminator)
        self.phases: tuple[str, ...] = ("adversarial", *(("normals",) if self.normals else ()))

    def phase(self, progress: float) -> str:
        """`normals` for the last steps, if there are terms."""
        return self.phases[-1] if progress >= 1 - NORMALS_FRACTION else self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that encoder and decoder learn by."""
        return "" if self.phase(progress) == "normals" else "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """What terms do before the first step."""
        prepare_terms(self.networks, x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of both on x [N, 3, h, w] in [-1, 1], or its terms."""
        if self.normals is not None and self.phase(progress) == "normals":
            return self.normals.see(x, self.reconstruct, self.average)
        x_hat = self.reconstruct(x)
        return self.judging.learn(x, x_hat) | self.autoencoder_step(x, x_hat)

    def autoencoder_step(self, x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        """Repeat x and deceive the discriminator (Pathak et al. 2016, eq. 3); x_hat has gradients."""
        squared, adversarial = izi(x, x_hat).mean(), self.judging.term(x_hat)
        loss = self.config.reconstruction_weight * squared + self.config.adversarial_weight * adversarial
        update(self.optimizers["autoencoder"], self.parameters, loss, self.average)
        return {"squared_error": squared.detach(), "adversarial": adversarial.detach()}

    def finish(self) -> None:
        """The terms' means and deviations."""
        if self.normals is not None:
            self.normals.finish(self.average)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode what was encoded."""
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat
