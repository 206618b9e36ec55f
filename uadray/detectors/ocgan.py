"""OCGAN: an autoencoder each of whose latents has to draw normal tissue. https://arxiv.org/abs/1903.08550 .

Perera, Nallapati and Xiang 2019.

As in the paper: a denoising autoencoder has latents in (-1, 1)^d, by tanh. A latent discriminator keeps those of normal
tiles uniform there, and a visual discriminator has any latent drawn like a normal tile. A classifier learns to tell
tiles repeated from those drawn from random latents; down its word, from random latents, those are looked for that draw
what is least like a normal tile (informative negatives, section 3.5), and the decoder has to draw these like normal
tiles too. In the first part of a training latents are not looked for. The score is the mean squared error of the
repeated tile, without noise.

Different: all five networks are normalised tile by tile. The squared error is a mean over a tile's numbers. What is
looked for is brought back into the cube after each step (authors' code: through tanh). The discriminators learn from
the latents of this step, before they are looked for. The paper's text could not be opened: it is followed from memory
and from the authors' code.

What it assumes: a decoder that draws normal tissue from every latent cannot repeat anything else. It says nothing of
how well it repeats rich normal tissue, and the squared error says how rich a tile is.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update_along
from uadray.detectors.latents import EncoderMap
from uadray.detectors.scores import PixelResidual
from uadray.detectors.trainee import Average, Losses
from uadray.generators.gan_losses import logistic_discriminator_loss, logistic_generator_loss
from uadray.generators.wgan_gp import check_side
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks

BETAS = (0.5, 0.999)
"""Of Adam, for all five networks (authors' code)."""

LATENT_WIDTHS = (128, 64, 32, 16)
"""Of the hidden layers of the latent discriminator (section 4)."""

PLAYERS = {
    "classifier": ("classifier",),
    "discriminators": ("latent_discriminator", "visual_discriminator"),
    "autoencoder": ("encoder", "decoder"),
}
"""Who learns together, in the order of a step."""


class Config(configuration.Config):
    """OCGAN.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels of the autoencoder at half the resolution.
        critic_width: the same of visual discriminator and classifier.
        latent_dim: d.
        noise: deviation of the noise that the autoencoder takes away, of images in [-1, 1] (authors' code: 0.2).
        reconstruction_weight: lambda, of the mean squared error beside the adversarial terms (paper: 10, of a sum;
            authors' code: 250, of the mean, with 10 for the latent term).
        warm_up: share of the steps in which latents are not looked for (authors' code: 150 of 201 epochs).
        mining_steps: in which they are looked for.
        mining_rate: how far they go for a gradient of 1 (authors' code: 2, one step).
        learning_rate: of Adam, for all networks (authors' code: 2e-4).
    """

    kind: Literal["ocgan"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    critic_width: int = Field(default=8, ge=4, le=256)
    latent_dim: int = Field(default=64, ge=1, le=4096)
    noise: float = Field(default=0.2, ge=0, le=10)
    reconstruction_weight: float = Field(default=10.0, ge=0, le=1e6)
    warm_up: float = Field(default=0.5, ge=0, lt=1)
    mining_steps: int = Field(default=5, ge=1, le=1000)
    mining_rate: float = Field(default=2.0, gt=0, le=1000)
    learning_rate: float = Field(default=2e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self

    @property
    def least_steps(self) -> int:
        """Of a training: so many have one in which latents are looked for, after one of the warm-up."""
        return int(1 / (1 - self.warm_up)) + 1


def informative_negatives(
    decoder: nn.Module, classifier: nn.Module, latents: Float[Tensor, "n d"], *, steps: int, rate: float
) -> Float[Tensor, "n d"]:
    """Latents that the classifier finds less like normal tissue than those given (section 3.5).

    Each goes down the cross entropy of the classifier's word with "not normal", and stays in [-1, 1]^d.

    Args:
        decoder: latent to image.
        classifier: image to the logit of "normal".
        latents: where they begin.
        steps: of gradient descent.
        rate: how far a latent goes for a gradient of 1.
    """
    found = latents
    for _ in range(steps):
        with torch.enable_grad():
            leaf = found.detach().requires_grad_()
            loss = F.softplus(classifier(decoder(leaf)).float()).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
        found = (leaf.detach() - rate * gradient).clamp(-1, 1)
    return found


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The autoencoder, two discriminators and the classifier, each of which gives a logit."""
    d, side = config.latent_dim, config.input_px
    encoder = VectorEncoder(width=config.width, input_px=side, outputs=d)
    decoder = VectorDecoder(width=config.width, input_px=side, latent_dim=d)
    layers: list[nn.Module] = []
    for before, after in zip((d, *LATENT_WIDTHS), LATENT_WIDTHS, strict=False):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]
    return {
        "encoder": nn.Sequential(encoder, nn.Tanh()),
        "decoder": nn.Sequential(decoder, nn.Tanh()),
        "latent_discriminator": nn.Sequential(*layers, nn.Linear(LATENT_WIDTHS[-1], 1), nn.Flatten(0)),
        "visual_discriminator": _logit(config),
        "classifier": _logit(config),
    }


def _logit(config: Config) -> nn.Module:
    """Image to a logit [n]."""
    return nn.Sequential(VectorEncoder(width=config.critic_width, input_px=config.input_px, outputs=1), nn.Flatten(0))


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, decoder, squared error."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: PixelResidual("squared"),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Classifier, discriminators and autoencoder in turn, in every step (algorithm 1)."""

    phases: tuple[str, ...] = ("warm-up", "informative negatives")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.learning = {
            name: [p for each in members for p in networks[each].parameters()] for name, members in PLAYERS.items()
        }
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(weights, lr=config.learning_rate, betas=BETAS, fused=weights[0].is_cuda or None)
            for name, weights in self.learning.items()
        }
        self.counts: dict[str, int] = {}
        if not config.warm_up:
            self.phases = self.phases[1:]

    def phase(self, progress: float) -> str:
        """Latents are looked for after the warm-up."""
        return self.phases[-1] if progress >= self.config.warm_up else self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that all networks learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """All networks learn once from tiles x [N, 3, h, w] in [-1, 1]."""
        torch.clear_autocast_cache()  # it has weights as they were before their step
        noisy = x + self.config.noise * torch.randn_like(x)
        random = 2 * torch.rand(len(x), self.config.latent_dim, device=x.device) - 1
        losses = {"classifier": self.classifier_step(noisy, random)}
        losses |= self.discriminators_step(x, noisy, random)
        if self.phase(progress) == "informative negatives":
            random = self.negatives(random)
        return losses | self.autoencoder_step(x, noisy, random)

    def classifier_step(self, noisy: Tensor, random: Tensor) -> Tensor:
        """Tiles repeated from tiles drawn."""
        decoder, classifier = self.networks["decoder"], self.networks["classifier"]
        with torch.no_grad():
            repeated, drawn = decoder(self.networks["encoder"](noisy)), decoder(random)
        loss = logistic_discriminator_loss(classifier(repeated).float(), classifier(drawn).float())
        self._descend("classifier", loss)
        return loss.detach()

    def discriminators_step(self, x: Tensor, noisy: Tensor, random: Tensor) -> dict[str, Tensor]:
        """Random latents from those of tiles, tiles from those drawn."""
        of_latents, of_images = self.networks["latent_discriminator"], self.networks["visual_discriminator"]
        with torch.no_grad():
            code, drawn = self.networks["encoder"](noisy), self.networks["decoder"](random)
        latent = logistic_discriminator_loss(of_latents(random).float(), of_latents(code).float())
        visual = logistic_discriminator_loss(of_images(x).float(), of_images(drawn).float())
        self._descend("discriminators", latent + visual)
        return {"latent_discriminator": latent.detach(), "visual_discriminator": visual.detach()}

    def negatives(self, random: Tensor) -> Tensor:
        """Latents that draw what is least like a normal tile, looked for from these."""
        return informative_negatives(
            self.networks["decoder"], self.networks["classifier"], random,
            steps=self.config.mining_steps, rate=self.config.mining_rate,
        )  # fmt: skip

    def autoencoder_step(self, x: Tensor, noisy: Tensor, latents: Tensor) -> dict[str, Tensor]:
        """Please both discriminators, and repeat tiles without their noise."""
        torch.clear_autocast_cache()
        code = self.networks["encoder"](noisy)
        error = F.mse_loss(self.networks["decoder"](code).float(), x)
        latent = logistic_generator_loss(self.networks["latent_discriminator"](code).float())
        drawn = self.networks["decoder"](latents)
        visual = logistic_generator_loss(self.networks["visual_discriminator"](drawn).float())
        self._descend("autoencoder", latent + visual + self.config.reconstruction_weight * error)
        return {"squared_error": error.detach(), "latent": latent.detach(), "visual": visual.detach()}

    def _descend(self, name: str, loss: Tensor) -> None:
        """One step of these networks alone; the others have no gradient."""
        gradients = torch.autograd.grad(loss, self.learning[name])
        update_along(self.optimizers[name], self.learning[name], gradients, self.average)

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode what was encoded."""
        x_hat: Tensor = self.networks["decoder"](self.networks["encoder"](x))
        return x_hat
