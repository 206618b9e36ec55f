"""Convolutional autoencoder (AE), with which f-AnoGAN is compared. https://doi.org/10.1016/j.media.2019.01.010 .

Schlegl et al. 2019, the section on the comparison with alternative approaches.

As in the paper: encoder and decoder learn together by the mean squared error of the reconstruction, and its mean over
a tile is the score. The paper's text could not be opened; sizes are this project's.

Different: layers are normalised tile by tile in groups of channels (`uadray.networks.coding`). A residual follows a
tile's contrast more than what is abnormal in it; so the score may be in deviations from normal tiles
(`terms`, see `uadray.detectors.inversion.terms`), of the tile's contrast where `by_contrast` says so.

What it assumes: what is abnormal cannot be repeated by a network that squeezes tiles through a short vector, and has
seen normal ones alone.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.inversion.encoder_losses import izi
from uadray.detectors.inversion.generator_part import steps_for_last
from uadray.detectors.inversion.terms import (
    CRITIC_KINDS,
    NormalsFit,
    TermConfig,
    TermsScore,
    prepare_terms,
    term_networks,
    term_weights,
)
from uadray.detectors.latents import EncoderMap, Latent
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import Average, Losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks

NORMALS_FRACTION = 0.05
"""Of the steps, which normalise terms, as in f-AnoGAN."""


class Config(configuration.Config):
    """Convolutional autoencoder.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at half the resolution.
        latent_dim: length of z.
        learning_rate: of Adam.
        terms: of the score in place of the mean squared residual, see `uadray.detectors.inversion.terms`; the last
            twentieth of the steps normalises them.
    """

    kind: Literal["autoencoder"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=128, ge=2, le=4096)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    terms: tuple[TermConfig, ...] | None = Field(default=None, min_length=1, max_length=16)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        check_side(self.input_px)
        if asked := {term.kind for term in self.terms or ()} & CRITIC_KINDS:
            raise ValueError(
                f"terms {', '.join(sorted(asked))}: there is no discriminator; see adversarial_autoencoder"
            )
        return self

    @property
    def least_steps(self) -> int:
        """Steps of a training in which terms are normalised."""
        return 1 if self.terms is None else steps_for_last(NORMALS_FRACTION)


class SquaredResidual:
    """The mean squared residual of the image."""

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the absolute residual, its mean over colours, as the paper localises."""
        x_hat = picture_of(x_hat)
        return izi(x, x_hat), (x - x_hat).abs().mean(1)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """What the terms need."""
    return term_weights(config.terms or ())


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder and decoder, and what the terms need.

    Raises:
        InputError: pinned weights do not fit.
        WorkError: pinned weights cannot be had.
    """
    sizes = {"width": config.width, "input_px": config.input_px}
    result: Networks = {
        "encoder": VectorEncoder(**sizes, outputs=config.latent_dim),
        "decoder": VectorDecoder(**sizes, latent_dim=config.latent_dim),
    }
    if config.terms is None:
        return result
    return result | term_networks(config.terms, input_px=config.input_px, pretrained=pretrained)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, decoder, mean squared residual or terms."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: score_of(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


def score_of(config: Config, networks: Mapping[str, nn.Module]) -> SquaredResidual | TermsScore:
    """The stage `score`."""
    return SquaredResidual() if config.terms is None else TermsScore(config.terms, networks, None)


class Trainee:
    """Encoder and decoder by the mean squared error; then, where there are terms, normal tiles are counted."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        adam = Adam(self.parameters, lr=config.learning_rate, fused=self.parameters[0].is_cuda or None)
        self.optimizers: dict[str, Optimizer] = {"autoencoder": adam}
        self.counts: dict[str, int] = {}
        self.normals = None if config.terms is None else NormalsFit(config.terms, networks, None)
        self.phases: tuple[str, ...] = ("reconstruction", *(("normals",) if self.normals else ()))

    def phase(self, progress: float) -> str:
        """`normals` for the last steps, if there are terms."""
        return self.phases[-1] if progress >= 1 - NORMALS_FRACTION else self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that it learns by."""
        return "" if self.phase(progress) == "normals" else "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """What terms do before the first step."""
        prepare_terms(self.networks, x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step on x [N, 3, h, w] in [-1, 1], or its terms."""
        if self.normals is not None and self.phase(progress) == "normals":
            return self.normals.see(x, self.reconstruct, self.average)
        loss = izi(x, self.reconstruct(x)).mean()
        update(self.optimizers["autoencoder"], self.parameters, loss, self.average)
        return {"squared_error": loss.detach()}

    def finish(self) -> None:
        """The terms' means and deviations."""
        if self.normals is not None:
            self.normals.finish(self.average)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode what was encoded."""
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat
