"""GANomaly. https://arxiv.org/abs/1805.06725 .

Akcay, Atapour-Abarghouei and Breckon 2018, "GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training".

As in the paper (section 3): an encoder takes a tile to a code, a decoder takes the code to a picture, and a second
encoder of the same architecture takes the picture to a second code. A discriminator tells tiles from pictures. All but
the discriminator learn from three losses: its features of tile and picture shall be the same (L_adv), tile and picture
too (L_con), and both codes (L_enc), weighted by 1, 50 and 1. The score is the L1 distance of both codes. Networks are
convolutional as DCGAN's, and pictures end in a tanh.

Different: the paper brings the scores of a test set to [0, 1] by its smallest and largest; here a tile's score depends
on no other tile, and it is the mean over the code's numbers. Layers are normalised tile by tile, in groups of channels
(the paper: by batch), for the same reason. The squared differences of features and codes are means, as in the authors'
code (github.com/samet-akcay/ganomaly), whose score is the squared difference too: `score: l2`. That code begins the
discriminator anew where its loss reaches zero; this one does not. The map is the residual of the picture: codes have no
places.

What it assumes: an encoder of normal tiles drops what is abnormal, so that the picture's code is not the tile's.
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
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import Average, Losses
from uadray.generators import gan_losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks

BETAS = (0.5, 0.999)
"""Of Adam, for all networks (authors' code)."""

GENERATOR = ("encoder", "decoder", "second_encoder")
"""What learns together against the discriminator."""

CodeDistance = Literal["l1", "l2"]


class Config(configuration.Config):
    """GANomaly. The authors' code has `width` 64, and of CIFAR-10 `input_px` 32, 15 epochs in batches of 64.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at half the resolution, of all networks.
        latent_dim: length of a code (authors' code: 100).
        adversarial_weight: of L_adv (paper: 1).
        contextual_weight: of L_con (paper: 50).
        encoder_weight: of L_enc (paper: 1).
        score: `l1`, mean absolute difference of both codes (paper), or `l2`, their mean squared difference.
        learning_rate: of Adam, for all networks (authors' code: 2e-4).
    """

    kind: Literal["ganomaly"]
    input_px: int = Field(default=32, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=100, ge=2, le=4096)
    adversarial_weight: float = Field(default=1.0, ge=0, le=1e6)
    contextual_weight: float = Field(default=50.0, ge=0, le=1e6)
    encoder_weight: float = Field(default=1.0, ge=0, le=1e6)
    score: CodeDistance = "l1"
    learning_rate: float = Field(default=2e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self


def adversarial_loss(f: Float[Tensor, "n ..."], f_hat: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """L_adv (section 3.2): squared difference of the discriminator's features of tiles and of pictures, a mean."""
    return (f - f_hat).square().mean()


def contextual_loss(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
    """L_con (section 3.2): absolute difference of tiles and pictures, a mean."""
    return (x - x_hat).abs().mean()


def encoder_loss(z: Float[Tensor, "n d"], z_hat: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """L_enc (section 3.2): squared difference of the codes of tiles and of pictures, a mean; with gradients to both."""
    return (z - z_hat).square().mean()


def code_distance(z: Float[Tensor, "n d"], z_hat: Float[Tensor, "n d"], *, score: CodeDistance) -> Float[Tensor, " n"]:
    """A(x) (section 3.3), a mean over the code: absolute differences, or as in the authors' code squared ones."""
    difference = z - z_hat
    return (difference.abs() if score == "l1" else difference.square()).mean(1)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder, decoder, second encoder and discriminator."""
    sizes = {"width": config.width, "input_px": config.input_px}
    return {
        "encoder": VectorEncoder(**sizes, outputs=config.latent_dim),
        "decoder": nn.Sequential(VectorDecoder(**sizes, latent_dim=config.latent_dim), nn.Tanh()),
        "second_encoder": VectorEncoder(**sizes, outputs=config.latent_dim),
        "discriminator": VectorEncoder(**sizes, outputs=1),
    }


class CodeScore:
    """The distance of both codes; the map is the mean absolute difference of tile and picture."""

    def __init__(self, second_encoder: nn.Module, *, score: CodeDistance) -> None:
        self.second_encoder, self.score = second_encoder, score

    def __call__(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        """Tiles and pictures [n, 3, h, w], codes [n, d] -> [n] and [n, h, w]."""
        if not isinstance(z, Tensor):
            raise TypeError(f"z: expected a code a tile, found {type(z).__name__}")
        picture = picture_of(x_hat)
        distance = code_distance(z, self.second_encoder(picture), score=self.score)
        return distance, (x - picture).abs().mean(1)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, decoder, second encoder."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: CodeScore(placed["second_encoder"], score=config.score),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """A step of both sides, from one pass of the tiles through all networks."""

    phases: tuple[str, ...] = ("adversarial",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        discriminator = networks["discriminator"]
        if not isinstance(discriminator, VectorEncoder):
            raise TypeError(f"discriminator: found {type(discriminator).__name__}")
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder, self.second_encoder = (networks[name] for name in GENERATOR)
        self.discriminator = discriminator
        self.parameters = {
            "generator": [p for name in GENERATOR for p in networks[name].parameters()],
            "discriminator": list(discriminator.parameters()),
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
        """The field of the configuration that all networks learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing is measured before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step of generator and discriminator on x [N, 3, h, w] in [-1, 1]."""
        config = self.config
        z = self.encoder(x)
        x_hat = self.decoder(z)
        f, f_hat = self.discriminator.features(x), self.discriminator.features(x_hat)
        adversarial = adversarial_loss(f.detach(), f_hat)
        contextual, coding = contextual_loss(x, x_hat), encoder_loss(z, self.second_encoder(x_hat))
        words, words_hat = (self.discriminator.to_vector(maps.flatten(1)).squeeze(1) for maps in (f, f_hat))
        telling = gan_losses.logistic_discriminator_loss(words, words_hat) / 2  # halved as in the authors' code
        loss = (
            config.adversarial_weight * adversarial
            + config.contextual_weight * contextual
            + config.encoder_weight * coding
        )
        of_discriminator = torch.autograd.grad(telling, self.parameters["discriminator"], retain_graph=True)
        of_generator = torch.autograd.grad(loss, self.parameters["generator"])
        update_along(self.optimizers["generator"], self.parameters["generator"], of_generator, self.average)
        update_along(self.optimizers["discriminator"], self.parameters["discriminator"], of_discriminator, self.average)
        told = {"adversarial": adversarial, "contextual": contextual, "encoder": coding, "discriminator": telling}
        return {name: value.detach() for name, value in told.items()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """The picture of the tile's code."""
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat
