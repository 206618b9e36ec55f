"""How a DCGAN is trained. https://arxiv.org/abs/1511.06434 (Radford et al. 2016, section 4).

As in the paper: discriminator and generator by turns, Adam with learning rate 2e-4 and beta1 0.5, batches of 128. The
losses are those of Goodfellow et al. 2014 (https://arxiv.org/abs/1406.2661), the generator's in the form that does not
saturate. The networks are in `uadray.networks.dcgan`.

Different: both learn in each step, the generator with latents of its own (the authors' code lets one of them learn from
each batch, by turns, and has a weight decay of 1e-5 that the paper does not name). With `accumulate`, batch
normalisation sees one part of the batch at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.errors import InputError
from uadray.generators import gan_losses
from uadray.generators.latent_draws import as_they_are, standard_normal
from uadray.generators.micro_batches import Losses, shares, update
from uadray.networks.dcgan import START_PX, Discriminator, Generator
from uadray.networks.outline import Networks

BETAS = (0.5, 0.999)


class Config(configuration.Config):
    """A DCGAN, of AnoGAN's size unless said otherwise.

    Attributes:
        input_px: side of the pictures, a power of two from 16.
        width: channels at half the resolution, of generator and discriminator (paper: 128; AnoGAN: 64).
        latent_dim: length of z (paper: 100).
        prior: of z: uniform in [-1, 1] in the paper and in AnoGAN; WGAN-GP and f-AnoGAN draw standard normals.
        learning_rate: of Adam with betas 0.5 and 0.999.
        accumulate: parts of a batch that are computed one after the other, for want of memory.
    """

    kind: Literal["dcgan"]
    input_px: int = Field(default=64, ge=16, le=512)
    width: int = Field(default=64, ge=4, le=256)
    latent_dim: int = Field(default=100, ge=2, le=4096)
    prior: Literal["uniform", "normal"] = "uniform"
    learning_rate: float = Field(default=2e-4, gt=0, le=10)
    accumulate: int = Field(default=1, ge=1, le=1024)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        if self.input_px & (self.input_px - 1):
            raise ValueError(f"input_px {self.input_px} is no power of two from {4 * START_PX}")
        return self


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Generator and discriminator, untrained; there are no published weights of them."""
    return {
        "generator": Generator(width=config.width, input_px=config.input_px, latent_dim=config.latent_dim),
        "discriminator": Discriminator(width=config.width, input_px=config.input_px),
    }


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def latents(config: Config, n: int, *, rng: torch.Generator) -> Tensor:
    """Latents z [n, latent_dim] of the prior, on the CPU."""
    if config.prior == "normal":
        return standard_normal(n, config.latent_dim, rng=rng)
    return torch.rand(n, config.latent_dim, generator=rng) * 2 - 1


def styles(config: Config, networks: Networks, z: Tensor, *, truncation: float = 1.0) -> Tensor:
    """Z itself: there is no second latent space, see `latent_draws.as_they_are`."""
    return as_they_are(z, truncation=truncation, kind=config.kind)


def pictures(config: Config, networks: Networks, styles: Tensor) -> Tensor:
    """Pictures [n, 3, h, w] in [-1, 1] of latents [n, latent_dim], the generator in evaluation mode."""
    return unbounded(config, networks, styles)


def unbounded(
    config: Config, networks: Networks, styles: Tensor, *, noise: Sequence[Tensor] | None = None
) -> Tensor:  # fmt: skip
    """The same: tanh bounds them; there is no noise."""
    x: Tensor = networks["generator"].eval()(styles)
    return x


def noise_maps(config: Config, networks: Networks) -> list[Tensor]:
    """None: pictures follow from the latent alone."""
    return []


class Trainee:
    """A discriminator step and a generator step on each batch. Members: see `uadray.detectors.trainee`."""

    phases: tuple[str, ...] = ("gan",)
    captured = ("discriminator_step", "generator_step")

    def __init__(self, config: Config, networks: Networks, *, average: Callable[[Iterable[Tensor]], None]) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator, self.discriminator = networks["generator"], networks["discriminator"]
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(networks[name].parameters(), lr=config.learning_rate, betas=BETAS)
            for name in ("generator", "discriminator")
        }
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return "gan"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that generator and discriminator learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing to prepare."""

    def step(self, x: Tensor, progress: float) -> dict[str, Tensor]:
        """A step of either on x [N, 3, h, w] in [-1, 1]; their losses, and how often the discriminator is right."""
        return self.discriminator_step(x) | self.generator_step(len(x), x.device)

    def discriminator_step(self, x: Tensor) -> dict[str, Tensor]:
        """-log D(x) - log(1 - D(G(z)))."""
        self.optimizers["discriminator"].zero_grad()
        total, right = x.new_zeros(()), x.new_zeros(())
        for part, share in self._shares(x):
            with torch.no_grad():
                fake = self.generator(self._latents(len(part), x.device))
            on_real, on_fake = self.discriminator(part), self.discriminator(fake)
            loss = share * gan_losses.logistic_discriminator_loss(on_real, on_fake)
            loss.backward()
            total += loss.detach()
            right += share * torch.cat([on_real > 0, on_fake < 0]).float().mean()
        self.average([p.grad for p in self.discriminator.parameters() if p.grad is not None])
        self.optimizers["discriminator"].step()
        return {"discriminator": total, "discriminator_accuracy": right}

    def generator_step(self, n: int, device: torch.device) -> dict[str, Tensor]:
        """-log D(G(z)) of n pictures, the discriminator frozen."""
        torch.clear_autocast_cache()  # it has the discriminator as it was before its step
        self.discriminator.requires_grad_(False)
        parts, optimizer = self._shares(self._latents(n, device)), self.optimizers["generator"]
        losses = update(self.generator, optimizer, parts, self._generator_loss, average=self.average)
        self.discriminator.requires_grad_(True)
        return losses

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """As many pictures as x has, of the same latents at every call: nothing is reconstructed by a generator."""
        z = latents(self.config, len(x), rng=torch.Generator().manual_seed(0))
        x_hat: Tensor = self.generator(z.to(x.device))
        return x_hat

    def _generator_loss(self, z: Tensor) -> tuple[Tensor, Losses]:
        loss = gan_losses.logistic_generator_loss(self.discriminator(self.generator(z)))
        return loss, {"generator": loss}

    def _latents(self, n: int, device: torch.device) -> Tensor:
        if self.config.prior == "normal":
            return torch.randn(n, self.config.latent_dim, device=device)
        return torch.rand(n, self.config.latent_dim, device=device) * 2 - 1

    def _shares(self, x: Tensor) -> list[tuple[Tensor, float]]:
        parts = shares(x, self.config.accumulate)
        if min(len(part) for part, _ in parts) < 2:
            raise InputError(
                f"generator.accumulate {self.config.accumulate} leaves one of {len(x)} tiles alone, which batch "
                "normalisation cannot take; lower it, or raise batch_size"
            )
        return parts
