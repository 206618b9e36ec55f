"""Adversarially learned one-class classifier (ALOCC). https://arxiv.org/abs/1802.09088 .

Sabokrou, Khalooei, Fathy and Adeli 2018, "Adversarially Learned One-Class Classifier for Novelty Detection".

As in the paper (section 3): a refiner R, a convolutional autoencoder, learns to make of noisy normal tiles what a
discriminator D takes for normal tiles, and to repeat the tile. D learns to tell them from tiles, and is
the classifier: it is asked about the refined tile, D(R(x)), for R enhances what is normal and distorts what is not
(`score: refined`), or about the tile itself, D(x) (`score: tile`). Tiles are scored without noise.

Different: the paper stops when the squared error of the refined tiles falls below a threshold, which it does not give;
here a training has the length of its configuration, and no weights are chosen among its steps. The score is
-log D instead of 1 - D: the order is the same, but 1 - D of confident discriminators is 1 in float32 for many tiles
alike. The squared error is that of the tile without noise, as in the paper (the authors' code,
github.com/khalooei/ALOCC-CVPR2018, has a cross-entropy with the noisy tile); the weight is of a mean over pixels and
colours. One step of R for one of D (that code: two), with Adam (that code: RMSprop). R's blocks are residual ones, and
D is normalised tile by tile. The map is what each place adds against D's word, in a grid of 4 x 4.

What it assumes: a network that has learned to clean normal tiles makes of abnormal ones what no normal tile looks like.
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
from uadray.detectors.gradient_steps import update_along
from uadray.detectors.latents import EncoderMap, Latent
from uadray.detectors.scores import picture_of, reference_discrimination
from uadray.detectors.trainee import Average, Losses
from uadray.generators import gan_losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.autoencoder import Decoder, Encoder, Layout
from uadray.networks.coding import VectorEncoder
from uadray.networks.outline import Networks

BETAS = (0.5, 0.999)
"""Of Adam, for both networks: DCGAN's (Radford et al. 2016, https://arxiv.org/abs/1511.06434, section 4)."""


class Config(configuration.Config):
    """An adversarially learned one-class classifier.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at full resolution of the refiner, and at half of it of the discriminator.
        halvings: of the refiner, down to its latent (authors' code: 3).
        latent_channels: of the refiner's latent.
        noise: deviation of the noise on tiles in [-1, 1], while learning (authors' code: 0.155).
        reconstruction_weight: of the mean squared error beside the adversarial loss; chosen among 10, 100 and 1000
            (DECISIONS.md, 2026-11-27).
        score: `refined`, of D(R(x)) (the paper's OCC2), or `tile`, of D(x) (its OCC1).
        learning_rate: of Adam, for both networks.
    """

    kind: Literal["alocc"]
    input_px: int = Field(default=32, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    halvings: int = Field(default=3, ge=1, le=6)
    latent_channels: int = Field(default=16, ge=1, le=1024)
    noise: float = Field(default=0.155, ge=0, le=10)
    reconstruction_weight: float = Field(default=10.0, ge=0, le=1e6)
    score: Literal["refined", "tile"] = "refined"
    learning_rate: float = Field(default=2e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        check_side(self.input_px)
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times")
        return self


def reconstruction_loss(x: Float[Tensor, "n 3 h w"], refined: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
    """L_R (section 3.3): squared difference of tiles and of what was made of their noisy copies, a mean."""
    return (x - refined).square().mean()


def shares_of_word(discriminator: VectorEncoder, maps: Float[Tensor, "n c 4 4"]) -> Float[Tensor, "n 4 4"]:
    """What each place of the discriminator's last map adds to its logit: with the bias they sum to it."""
    weight = discriminator.to_vector.weight.view(1, *maps.shape[1:])
    return (maps * weight).sum(1)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The refiner in two halves, and the discriminator."""
    layout = Layout(width=config.width, halvings=config.halvings, latent_channels=config.latent_channels)
    return {
        "encoder": Encoder(layout),
        "decoder": nn.Sequential(Decoder(layout), nn.Tanh()),
        "discriminator": VectorEncoder(width=config.width, input_px=config.input_px, outputs=1),
    }


class WordScore:
    """-log D of the refined tile, or of the tile itself."""

    def __init__(self, discriminator: nn.Module, *, of_refined: bool) -> None:
        self.discriminator, self.of_refined = as_discriminator(discriminator), of_refined

    def __call__(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        """Tiles and refined ones [n, 3, h, w] -> [n], and [n, 4, 4] what each place adds against the word "normal"."""
        maps = self.discriminator.features(picture_of(x_hat) if self.of_refined else x)
        word = self.discriminator.to_vector(maps.flatten(1)).squeeze(1)
        return reference_discrimination(word, is_logistic=True), -shares_of_word(self.discriminator, maps)


def as_discriminator(network: nn.Module) -> VectorEncoder:
    """The discriminator.

    Raises:
        TypeError: it is another network.
    """
    if not isinstance(network, VectorEncoder):
        raise TypeError(f"discriminator: found {type(network).__name__}")
    return network


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """The refiner's halves, and the discriminator's word."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: WordScore(placed["discriminator"], of_refined=config.score == "refined"),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """A step of refiner and discriminator, from one pass of the tiles through both."""

    phases: tuple[str, ...] = ("adversarial",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.discriminator = as_discriminator(networks["discriminator"])
        self.parameters = {
            "refiner": [*self.encoder.parameters(), *self.decoder.parameters()],
            "discriminator": list(self.discriminator.parameters()),
        }
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(parameters, lr=config.learning_rate, betas=BETAS, fused=parameters[0].is_cuda or None)
            for name, parameters in self.parameters.items()
        }
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that both networks learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing is measured before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step of both on x [N, 3, h, w] in [-1, 1], with fresh noise."""
        refined = self.reconstruct(x + self.config.noise * torch.randn_like(x))
        words, words_hat = self.discriminator(x).squeeze(1), self.discriminator(refined).squeeze(1)
        telling = gan_losses.logistic_discriminator_loss(words, words_hat)
        deceiving = gan_losses.logistic_generator_loss(words_hat)
        error = reconstruction_loss(x, refined)
        of_discriminator = torch.autograd.grad(telling, self.parameters["discriminator"], retain_graph=True)
        of_refiner = torch.autograd.grad(
            deceiving + self.config.reconstruction_weight * error, self.parameters["refiner"]
        )
        update_along(self.optimizers["discriminator"], self.parameters["discriminator"], of_discriminator, self.average)
        update_along(self.optimizers["refiner"], self.parameters["refiner"], of_refiner, self.average)
        told = {"discriminator": telling, "refiner": deceiving, "error": error}
        return {name: value.detach() for name, value in told.items()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """R(x)."""
        refined: Tensor = self.decoder(self.encoder(x))
        return refined
