"""How a WGAN-GP is trained. https://arxiv.org/abs/1704.00028 (Gulrajani et al. 2017, algorithm 1).

As in the paper: several critic steps for each generator step, each on tiles and latents of its own, a penalty on the
critic's gradient, Adam with betas 0 and 0.9; its batches are of 64. The networks are in `uadray.networks.wgan_gp`.

Different: with `accumulate`, which takes a batch in parts, the generator's batch normalisation sees one part at a time
in its own steps. In critic steps it draws the whole batch at once: the critic's gradient is that of the whole batch.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.generators import gan_losses
from uadray.generators.latent_draws import as_they_are, standard_normal
from uadray.generators.micro_batches import Losses, shares, update
from uadray.networks.outline import Networks
from uadray.networks.wgan_gp import START_PX, Critic, Generator


class Config(configuration.Config):
    """A WGAN-GP.

    Attributes:
        input_px: side of the pictures, a power of two from 16.
        width: channels at full resolution, of generator and critic.
        latent_dim: length of z.
        critic_steps: critic steps per generator step (paper: 5).
        penalty: weight of the gradient penalty (paper: 10).
        learning_rate: of Adam with betas 0 and 0.9 (paper: 1e-4).
        accumulate: parts of a batch that are computed one after the other, for want of memory; 1 unless given.
    """

    kind: Literal["wgan_gp"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=128, ge=2, le=4096)
    critic_steps: int = Field(default=5, ge=1, le=1000)
    penalty: float = Field(default=10.0, ge=0, le=1e6)
    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    accumulate: int | None = Field(default=None, ge=1, le=1024)  # None: see `bundle_description.bundle_id`

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self


def check_side(input_px: int) -> None:
    """Refuse a side that the networks cannot have.

    Raises:
        ValueError: it is no power of two from 16.
    """
    if input_px & (input_px - 1) or input_px < 4 * START_PX:
        raise ValueError(f"input_px {input_px} is no power of two from {4 * START_PX}")


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Generator and critic, untrained; there are no published weights of them."""
    return {
        "generator": Generator(width=config.width, input_px=config.input_px, latent_dim=config.latent_dim),
        "critic": Critic(width=config.width, input_px=config.input_px),
    }


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def latents(config: Config, n: int, *, rng: torch.Generator) -> Tensor:
    """Latents z [n, latent_dim] of a standard normal, on the CPU."""
    return standard_normal(n, config.latent_dim, rng=rng)


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
    """Critic steps, and every `critic_steps` of them a generator step. Members: see `uadray.detectors.trainee`."""

    phases: tuple[str, ...] = ("gan",)
    captured = ("critic_step", "generator_step")

    def __init__(self, config: Config, networks: Networks, *, average: Callable[[Iterable[Tensor]], None]) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator, self.critic = networks["generator"], networks["critic"]
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(networks[name].parameters(), lr=config.learning_rate, betas=(0.0, 0.9))
            for name in ("generator", "critic")
        }
        self.counts = {"critic_steps": 0}

    def phase(self, progress: float) -> str:
        """There is one."""
        return "gan"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that generator and critic learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing to prepare."""

    def step(self, x: Tensor, progress: float) -> dict[str, Tensor]:
        """A critic step on x [N, 3, h, w] in [-1, 1], and every `critic_steps` a generator step; their losses."""
        result = self.critic_step(x)
        self.counts["critic_steps"] += 1
        if self.counts["critic_steps"] % self.config.critic_steps == 0:
            result |= self.generator_step(x.shape[0], x.device)
        return result

    def critic_step(self, x: Tensor) -> dict[str, Tensor]:
        """E[D(fake)] - E[D(real)] + penalty (Gulrajani et al. 2017, algorithm 1)."""
        self.optimizers["critic"].zero_grad()
        with torch.no_grad():
            fake = self.generator(self._latents(len(x), x.device))
        epsilon = torch.rand(len(x), device=x.device)
        totals = x.new_zeros(2)
        for (real, share), (drawn, _), (at, _) in zip(*map(self._shares, (x, fake, epsilon)), strict=True):
            on_real, on_fake = self.critic(torch.cat([real, drawn])).to(x.dtype).chunk(2)
            wasserstein = gan_losses.critic_loss(on_real, on_fake)
            penalty = gan_losses.gradient_penalty(self.critic, real, drawn, at)
            (share * (wasserstein + self.config.penalty * penalty)).backward()
            totals += share * torch.stack([wasserstein, penalty]).detach()
        self.average([p.grad for p in self.critic.parameters() if p.grad is not None])
        self.optimizers["critic"].step()
        return {"wasserstein": -totals[0], "gradient_penalty": totals[1]}

    def generator_step(self, n: int, device: torch.device) -> dict[str, Tensor]:
        """-E[D(G(z))] of n pictures, the critic frozen."""
        torch.clear_autocast_cache()  # it has the critic as it was before its step
        self.critic.requires_grad_(False)
        parts, optimizer = self._shares(self._latents(n, device)), self.optimizers["generator"]
        losses = update(self.generator, optimizer, parts, self._generator_loss, average=self.average)
        self.critic.requires_grad_(True)
        return losses

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """As many pictures as x has, of the same latents at every call: nothing is reconstructed by a generator."""
        z = latents(self.config, len(x), rng=torch.Generator().manual_seed(0))
        x_hat: Tensor = self.generator(z.to(x.device))
        return x_hat

    def _generator_loss(self, z: Tensor) -> tuple[Tensor, Losses]:
        loss = gan_losses.generator_loss(self.critic(self.generator(z)))
        return loss, {"generator": loss}

    def _latents(self, n: int, device: torch.device) -> Tensor:
        return torch.randn(n, self.config.latent_dim, device=device)

    def _shares(self, x: Tensor) -> list[tuple[Tensor, float]]:
        return shares(x, self.config.accumulate or 1)
