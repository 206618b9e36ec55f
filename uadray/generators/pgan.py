"""How a progressive GAN is trained. https://arxiv.org/abs/1710.10196 (Karras et al. 2018, appendix A.1).

As in the paper: growing by images shown, WGAN-GP with a drift term, one critic step per generator step, Adam with betas
0 and 0.99, the exponential average of the generator for pictures. Different: the average is said as a half-life in
images (the paper's 0.999 at 16 images a step has one of 11,000), the batch does not shrink as the images grow. The
networks are in `uadray.networks.pgan` and `uadray.networks.growing`.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.generators import gan_losses
from uadray.generators.averaging import follow_shown
from uadray.generators.growing import Place, Schedule, check_side, enlarged, move_to, seen_at
from uadray.generators.latent_draws import as_they_are, standard_normal
from uadray.generators.micro_batches import Losses, Parts, shares, update
from uadray.networks.growing import START_PX, Discriminator
from uadray.networks.outline import Networks
from uadray.networks.pgan import Generator


class Config(configuration.Config):
    """A progressive GAN.

    Attributes:
        input_px: side of the pictures, a power of two from 8.
        latent_dim: length of z.
        channel_max: channels at r px are `channel_base` / r, but no more than this.
        channel_base: see `channel_max`.
        stage_images: real images shown at each side before the next one fades in, over all workers (paper: 800,000).
        fade_images: real images shown while a side fades in (paper: 800,000).
        penalty: weight of the gradient penalty (paper: 10).
        drift: weight of the critic's squared scores of real images (paper: 0.001).
        learning_rate: of Adam with betas 0 and 0.99 (paper: 1e-3).
        half_life_images: of the generator's average.
        accumulate: parts of a batch whose gradients are averaged into one step; the deviation that the critic sees is
            that of a part.
    """

    kind: Literal["pgan"]
    input_px: int = Field(default=64, ge=8, le=1024)
    latent_dim: int = Field(default=512, ge=2, le=4096)
    channel_max: int = Field(default=512, ge=4, le=1024)
    channel_base: int = Field(default=16384, ge=64, le=65536)
    stage_images: int = Field(default=800_000, ge=1, le=10**9)
    fade_images: int = Field(default=800_000, ge=1, le=10**9)
    penalty: float = Field(default=10.0, ge=0, le=1e6)
    drift: float = Field(default=0.001, ge=0, le=1e6)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    half_life_images: float = Field(default=10_000, ge=0, le=1e9)
    accumulate: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self

    @property
    def schedule(self) -> Schedule:
        """When it grows."""
        return Schedule(START_PX, self.input_px, self.stage_images, self.fade_images)

    @property
    def growing_images(self) -> int:
        """Images that a training has to show before a step with all layers."""
        return self.schedule.growing_images


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Generator, its average and critic, untrained; there are no published weights of them."""
    sizes = {name: getattr(config, name) for name in ("input_px", "channel_max", "channel_base")}
    generator = Generator(latent_dim=config.latent_dim, **sizes)
    average = copy.deepcopy(generator).requires_grad_(False)
    return {"generator": generator, "critic": Discriminator(is_blurred=False, **sizes), "average": average}


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def latents(config: Config, n: int, *, rng: torch.Generator) -> Tensor:
    """Z [n, latent_dim] on the CPU, as the training draws them; the generator projects them to the hypersphere."""
    return standard_normal(n, config.latent_dim, rng=rng)


def styles(config: Config, networks: Networks, z: Tensor, *, truncation: float = 1.0) -> Tensor:
    """Z itself: there is no second latent space, see `latent_draws.as_they_are`."""
    return as_they_are(z, truncation=truncation, kind=config.kind)


def pictures(config: Config, networks: Networks, styles: Tensor) -> Tensor:
    """X [n, 3, h, w] in [-1, 1] of z [n, latent_dim], at full side however far the average has grown."""
    return unbounded(config, networks, styles).clamp(-1, 1)


def unbounded(
    config: Config, networks: Networks, styles: Tensor, *, noise: Sequence[Tensor] | None = None
) -> Tensor:  # fmt: skip
    """The same before they are cut to [-1, 1]; there is no noise."""
    x: Tensor = networks["average"].eval()(styles)
    return enlarged(x, config.input_px)


def noise_maps(config: Config, networks: Networks) -> list[Tensor]:
    """None: pictures follow from the latent alone."""
    return []


class Trainee:
    """A critic step and a generator step, at the side that the images shown so far have come to.

    Members: see `uadray.detectors.trainee`. Of the counts it reads `images_shown`, which the loop adds to.
    """

    captured = ("critic_step", "generator_step")

    def __init__(self, config: Config, networks: Networks, *, average: Callable[[Iterable[Tensor]], None]) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator, self.critic = networks["generator"], networks["critic"]
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(networks[name].parameters(), lr=config.learning_rate, betas=(0.0, 0.99), eps=1e-8)
            for name in ("generator", "critic")
        }
        self.counts = {"averaged_at_images": 0}
        self.phases = config.schedule.phases

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.config.schedule.at(self.counts.get("images_shown", 0))

    def phase(self, progress: float) -> str:
        """Which side fades in or is learned; images say it, not `progress`."""
        return self.place.phase

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that generator and critic learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Start at the smallest side."""
        self._grow()

    def step(self, x: Tensor, progress: float) -> Losses:
        """A critic step and a generator step on x [N, 3, h, w] in [-1, 1]; their losses."""
        self._grow()
        parts = shares(seen_at(x, self.place), self.config.accumulate)
        losses = self.critic_step(parts)
        torch.clear_autocast_cache()  # it has the critic as it was before its step
        losses |= self.generator_step(parts)
        follow_shown(
            self.networks["average"], self.generator, self.counts, half_life_images=self.config.half_life_images
        )
        return losses

    def critic_step(self, parts: Parts) -> Losses:
        """E[D(fake)] - E[D(real)] + penalty + drift, on parts of a batch."""
        return update(self.critic, self.optimizers["critic"], parts, self._critic_loss, average=self.average)

    def generator_step(self, parts: Parts) -> Losses:
        """-E[D(G(z))] of as many pictures as the parts have, the critic frozen."""
        optimizer = self.optimizers["generator"]
        self.critic.requires_grad_(False)
        losses = update(self.generator, optimizer, parts, self._generator_loss, average=self.average)
        self.critic.requires_grad_(True)
        return losses

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """As many pictures as x has, of the same latents at every call: nothing is reconstructed by a generator."""
        z = latents(self.config, len(x), rng=torch.Generator().manual_seed(0))
        return pictures(self.config, self.networks, z.to(x.device))

    def _critic_loss(self, x: Tensor) -> tuple[Tensor, Losses]:
        with torch.no_grad():
            fake = self.generator(self._latents(x))
        real_scores = self.critic(x)
        wasserstein = gan_losses.critic_loss(real_scores, self.critic(fake))
        penalty = gan_losses.gradient_penalty(self.critic, x, fake)
        drift = gan_losses.drift(real_scores, epsilon=self.config.drift)
        losses = {"wasserstein": -wasserstein, "gradient_penalty": penalty, "drift": drift}
        return wasserstein + self.config.penalty * penalty + drift, losses

    def _generator_loss(self, x: Tensor) -> tuple[Tensor, Losses]:
        loss = gan_losses.generator_loss(self.critic(self.generator(self._latents(x))))
        return loss, {"generator": loss}

    def _grow(self) -> None:
        """Take all networks to where the training stands."""
        move_to(self.networks, self.place)

    def _latents(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), self.config.latent_dim, device=x.device)
