"""How a StyleGAN is trained. https://arxiv.org/abs/1812.04948 (Karras et al. 2019, section 2 and appendix C).

As in the paper: the non-saturating logistic loss with R1 (gamma 10) at every step, growing from 8 x 8 by images shown,
style mixing in 0.9 of the pictures, Adam with betas 0 and 0.99, the mapping at a hundredth of the rate, the exponential
average of the generator for pictures. Different: the change of styles is drawn for each picture; truncation moves the
styles of all layers; the average is said as a half-life in images; the batch does not shrink as the images grow. The
networks are in `uadray.networks.stylegan` and `uadray.networks.growing`.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.generators import gan_losses
from uadray.generators.averaging import follow_shown
from uadray.generators.growing import Place, Schedule, check_side, enlarged, move_to, seen_at
from uadray.generators.latent_draws import standard_normal
from uadray.generators.micro_batches import Losses, Parts, shares, update
from uadray.networks.growing import START_PX, Discriminator
from uadray.networks.outline import Networks
from uadray.networks.stylegan import FIRST_LEVEL, Generator, mixed

Rate = Annotated[float, Field(gt=0, le=10)]

MEAN_W_DECAY = 0.995
"""Of the mean w, a step; it has forgotten its start after a thousand of them."""


class Config(configuration.Config):
    """A StyleGAN.

    Attributes:
        input_px: side of the pictures, a power of two from 8.
        latent_dim: length of z.
        w_dim: length of w.
        channel_max: channels at r px are `channel_base` / r, but no more than this.
        channel_base: see `channel_max`.
        stage_images: real images shown at each side before the next one fades in, over all workers.
        fade_images: real images shown while a side fades in.
        r1_gamma: weight of R1 (paper: 10).
        style_mixing: share of pictures with the styles of two latents (paper: 0.9).
        learning_rate: of Adam with betas 0 and 0.99 (paper: 1e-3).
        stage_rates: other rates at some sides in px (a large batch on several GPUs bears 1.5e-3 at 128 px, 2e-3 at 256,
            3e-3 from 512).
        half_life_images: of the generator's average.
        accumulate: parts of a batch whose gradients are averaged into one step; the deviation that the discriminator
            sees is that of a part.
    """

    kind: Literal["stylegan"]
    input_px: int = Field(default=64, ge=8, le=1024)
    latent_dim: int = Field(default=512, ge=2, le=4096)
    w_dim: int = Field(default=512, ge=2, le=1024)
    channel_max: int = Field(default=512, ge=4, le=1024)
    channel_base: int = Field(default=16384, ge=64, le=65536)
    stage_images: int = Field(default=600_000, ge=1, le=10**9)
    fade_images: int = Field(default=600_000, ge=1, le=10**9)
    r1_gamma: float = Field(default=10.0, ge=0, le=1e6)
    style_mixing: float = Field(default=0.9, ge=0, le=1)
    learning_rate: Rate = 1e-3
    stage_rates: dict[int, Rate] = Field(default={}, max_length=10)
    half_life_images: float = Field(default=10_000, ge=0, le=1e9)
    accumulate: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self

    @property
    def schedule(self) -> Schedule:
        """When it grows."""
        return Schedule(START_PX * 2**FIRST_LEVEL, self.input_px, self.stage_images, self.fade_images)

    @property
    def growing_images(self) -> int:
        """Images that a training has to show before a step with all layers."""
        return self.schedule.growing_images


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Generator, its average and discriminator, untrained; there are no published weights of them."""
    sizes = {name: getattr(config, name) for name in ("input_px", "channel_max", "channel_base")}
    generator = Generator(latent_dim=config.latent_dim, w_dim=config.w_dim, **sizes)
    average = copy.deepcopy(generator).requires_grad_(False)
    return {"generator": generator, "discriminator": Discriminator(is_blurred=True, **sizes), "average": average}


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def latents(config: Config, n: int, *, rng: torch.Generator) -> Tensor:
    """Z [n, latent_dim] on the CPU, as the training draws them; the mapping projects them to the hypersphere."""
    return standard_normal(n, config.latent_dim, rng=rng)


def styles(config: Config, networks: Networks, z: Tensor, *, truncation: float = 1.0) -> Tensor:
    """W [n, layers, w_dim] of the average, each layer's truncated towards the mean w."""
    average = cast(Generator, networks["average"].eval())
    return average.styles(average.mapping(z), truncation=truncation)


def pictures(config: Config, networks: Networks, styles: Tensor) -> Tensor:
    """X [n, 3, h, w] in [-1, 1] of w [n, layers, w_dim], with the fixed noise, at full side."""
    return unbounded(config, networks, styles).clamp(-1, 1)


def unbounded(
    config: Config, networks: Networks, styles: Tensor, *, noise: Sequence[Tensor] | None = None
) -> Tensor:  # fmt: skip
    """The same before they are cut to [-1, 1], with other maps of noise where they are given."""
    x: Tensor = cast(Generator, networks["average"].eval()).synthesis(styles, noise=noise)
    return enlarged(x, config.input_px)


def noise_maps(config: Config, networks: Networks) -> list[Tensor]:
    """The fixed maps [1, 1, h, w] of the layers that the average draws with, whatever the level it has grown to."""
    average = cast(Generator, networks["average"])
    return average.synthesis.fixed_noise()[: 2 * (average.growth.level + 1)]


class Trainee:
    """A discriminator step and a generator step, at the side that the images shown so far have come to.

    Members: see `uadray.detectors.trainee`. Of the counts it reads `images_shown`, which the loop adds to.
    """

    captured = ("discriminator_step", "generator_step")

    def __init__(self, config: Config, networks: Networks, *, average: Callable[[Iterable[Tensor]], None]) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator, self.discriminator = cast(Generator, networks["generator"]), networks["discriminator"]
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(networks[name].parameters(), lr=config.learning_rate, betas=(0.0, 0.99), eps=1e-8)
            for name in ("generator", "discriminator")
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
        """The field of the configuration that generator and discriminator learn by."""
        return "stage_rates" if self.place.side_px in self.config.stage_rates else "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Start at the smallest side."""
        self._grow()

    def step(self, x: Tensor, progress: float) -> Losses:
        """A discriminator step and a generator step on x [N, 3, h, w] in [-1, 1]; their losses."""
        self._grow()
        parts = shares(seen_at(x, self.place), self.config.accumulate)
        losses = self.discriminator_step(parts)
        torch.clear_autocast_cache()  # it has the discriminator as it was before its step
        losses |= self.generator_step(parts)
        follow_shown(
            self.networks["average"], self.generator, self.counts, half_life_images=self.config.half_life_images
        )
        return losses

    def discriminator_step(self, parts: Parts) -> Losses:
        """The logistic loss and R1, on parts of a batch."""
        optimizer = self.optimizers["discriminator"]
        return update(self.discriminator, optimizer, parts, self._discriminator_loss, average=self.average)

    def generator_step(self, parts: Parts) -> Losses:
        """The non-saturating logistic loss of as many pictures as the parts have, the discriminator frozen."""
        optimizer = self.optimizers["generator"]
        self.discriminator.requires_grad_(False)
        losses = update(self.generator, optimizer, parts, self._generator_loss, average=self.average)
        self.discriminator.requires_grad_(True)
        return losses

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """As many pictures as x has, of the same latents at every call: nothing is reconstructed by a generator."""
        z = latents(self.config, len(x), rng=torch.Generator().manual_seed(0))
        return pictures(self.config, self.networks, styles(self.config, self.networks, z.to(x.device)))

    def _discriminator_loss(self, x: Tensor) -> tuple[Tensor, Losses]:
        with torch.no_grad():
            fake, _ = self._drawn(x)
        x = x.detach().requires_grad_()
        real_scores = self.discriminator(x)
        loss = gan_losses.logistic_discriminator_loss(real_scores, self.discriminator(fake))
        r1 = gan_losses.r1_penalty(real_scores, x, gamma=self.config.r1_gamma)
        return loss + r1, {"discriminator": loss, "r1": r1}

    def _generator_loss(self, x: Tensor) -> tuple[Tensor, Losses]:
        fake, w = self._drawn(x)
        self._follow_mean_w(w.detach())
        loss = gan_losses.logistic_generator_loss(self.discriminator(fake))
        return loss, {"generator": loss}

    def _drawn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As many pictures as x has, with styles mixed and noise anew, and w [2 n, w_dim]."""
        w = self.generator.mapping(torch.randn(2 * len(x), self.config.latent_dim, device=x.device))
        w1, w2 = self.generator.styles(w).chunk(2)
        layers = 2 * (self.place.level + 1)
        w_mixed = mixed(w1, w2, probability=self.config.style_mixing, layers=layers)
        return self.generator.synthesis(w_mixed, noise=self.generator.synthesis.drawn_noise(len(x))), w

    def _follow_mean_w(self, w: Tensor) -> None:
        """Move the mean w towards that of these, of all workers."""
        mean = w.float().mean(dim=0)
        self.average([mean])
        self.generator.mean_w.lerp_(mean, 1 - MEAN_W_DECAY)

    def _grow(self) -> None:
        """Take all networks to where the training stands, and the rates of this side."""
        place = self.place
        move_to(self.networks, place)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.config.stage_rates.get(place.side_px, self.config.learning_rate)
