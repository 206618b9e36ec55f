"""How a StyleGAN2 is trained. https://arxiv.org/abs/1912.04958 (Karras et al. 2020, sections 3 and appendix B).

As in the paper: non-saturating logistic loss, R1 every 16 steps and path length every 8 (`lazy`: steps of their own,
their weights multiplied by so many, Adam corrected for the steps that are more), half a batch for path lengths, style
mixing, an average of the generator by its half-life in images. With `ada`, every picture that the discriminator sees is
augmented (Karras et al. 2020b, `uadray.generators.augmentation`). Different:

- Where styles change is drawn for each picture, not for each batch.
- The discriminator's step stands before the generator's.
- `r1_gamma` "auto" is the rule of the ADA paper (appendix C), 0.0002 r^2 / batch; this paper has 10 for 1024 px.

Each of the four steps has shapes that do not depend on what is drawn, and waits for no GPU.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.generators import gan_losses
from uadray.generators.augmentation import AdaConfig, Augmentation
from uadray.generators.averaging import decay_of, follow
from uadray.generators.latent_draws import standard_normal
from uadray.generators.micro_batches import shares
from uadray.networks.outline import Networks
from uadray.networks.stylegan2 import Discriminator, Generator, sides


class Config(configuration.Config):
    """A StyleGAN2, of configuration E unless it says otherwise.

    Attributes:
        input_px: side of the pictures, a power of two from 16.
        channel_base: channels of maps of r px are this over r, `channel_max` at the most (E: 16384, F: 32768).
        channel_max: see `channel_base`.
        latent_dim: length of z.
        w_dim: length of w.
        mapping_layers: of the mapping network (paper: 8; ADA: 2 for small sets).
        mapping_rate: of its learning rate, a share of `learning_rate` (paper: 0.01).
        learning_rate: of Adam with betas 0 and 0.99, before its correction for lazy terms (paper: 0.002).
        style_mixing: share of pictures whose styles come from two latents (paper: 0.9).
        r1_gamma: weight of R1, "auto" by the rule above; 0 leaves it out.
        r1_every: steps from one R1 to the next (paper: 16).
        path_weight: of the path length's penalty, see `gan_losses.path_lengths` (paper: 2); 0 leaves it out.
        path_every: steps from one path length to the next (paper: 8, ADA: 4).
        path_decay: how fast the mean path length follows (paper: 0.01).
        half_life_images: of the generator's average (paper: 10,000).
        average_ramp: the half-life is this share of the images shown at the most (ADA: 0.05); None for no such limit,
            as in the paper, and an average that knows its start for long.
        w_decay: of the mean w that truncation goes to, a step (paper: 0.995).
        accumulate: parts a batch is taken in, one after another; minibatch deviation is within a part.
        ada: augment what the discriminator sees; None does not.
    """

    kind: Literal["stylegan2"]
    input_px: int = Field(default=64, ge=16, le=1024)
    channel_base: int = Field(default=16384, ge=16, le=65536)
    channel_max: int = Field(default=512, ge=4, le=1024)
    latent_dim: int = Field(default=512, ge=2, le=1024)
    w_dim: int = Field(default=512, ge=2, le=1024)
    mapping_layers: int = Field(default=8, ge=1, le=16)
    mapping_rate: float = Field(default=0.01, gt=0, le=1)
    learning_rate: float = Field(default=0.002, gt=0, le=10)
    style_mixing: float = Field(default=0.9, ge=0, le=1)
    r1_gamma: float | Literal["auto"] = "auto"
    r1_every: int = Field(default=16, ge=1, le=10_000)
    path_weight: float = Field(default=2.0, ge=0, le=1e6)
    path_every: int = Field(default=8, ge=1, le=10_000)
    path_decay: float = Field(default=0.01, gt=0, le=1)
    half_life_images: int = Field(default=10_000, ge=1, le=10_000_000)
    average_ramp: float | None = Field(default=None, gt=0, le=1)
    w_decay: float = Field(default=0.995, ge=0, lt=1)
    accumulate: int = Field(default=1, ge=1, le=1024)
    ada: AdaConfig | None = None

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        if self.input_px & (self.input_px - 1):
            raise ValueError(f"input_px {self.input_px} is no power of two")
        if self.channel_base < self.input_px:
            raise ValueError(f"channel_base {self.channel_base} leaves no channels at input_px {self.input_px}")
        if self.r1_gamma != "auto" and not 0 <= self.r1_gamma <= 1e6:
            raise ValueError(f"r1_gamma {self.r1_gamma} is neither auto nor from 0 to 1e6")
        return self

    @property
    def channels(self) -> list[int]:
        """Of the maps, from 4 px to the picture."""
        return [min(self.channel_max, self.channel_base // side_px) for side_px in sides(self.input_px)]


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Generator, discriminator and average, untrained, and the augmentation if there is one."""
    generator = Generator(
        input_px=config.input_px, channels=config.channels, latent_dim=config.latent_dim, w_dim=config.w_dim,
        mapping_layers=config.mapping_layers, mapping_rate=config.mapping_rate,
    )  # fmt: skip
    result: Networks = {
        "generator": generator,
        "discriminator": Discriminator(channels=config.channels),
        "average": copy.deepcopy(generator).requires_grad_(False),
    }
    return result | ({"augmentation": Augmentation(config.ada)} if config.ada is not None else {})


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def latents(config: Config, n: int, *, rng: torch.Generator) -> Tensor:
    """Z [n, latent], on the CPU."""
    return standard_normal(n, config.latent_dim, rng=rng)


def styles(config: Config, networks: Networks, z: Tensor, *, truncation: float = 1.0) -> Tensor:
    """W [n, styles, dim] of the average, drawn towards the mean w where truncation is less than 1."""
    generator = cast(Generator, networks["average"]).eval()
    return generator.broadcast(generator.truncated(generator.mapping(z), truncation=truncation))


def pictures(config: Config, networks: Networks, styles: Tensor) -> Tensor:
    """X [n, 3, h, w] of the average with its fixed noise, cut to [-1, 1]."""
    return unbounded(config, networks, styles).clamp(-1, 1)


def unbounded(
    config: Config, networks: Networks, styles: Tensor, *, noise: Sequence[Tensor] | None = None
) -> Tensor:  # fmt: skip
    """The same before they are cut to [-1, 1], with other maps of noise where they are given."""
    generator = cast(Generator, networks["average"]).eval()
    return generator.synthesis(styles, noise=generator.fixed_noise() if noise is None else noise)


def noise_maps(config: Config, networks: Networks) -> list[Tensor]:
    """The fixed maps [1, h, w] of all layers."""
    return cast(Generator, networks["average"]).fixed_noise()


class Trainee:
    """Four kinds of steps. Members: see `uadray.detectors.trainee`."""

    phases: tuple[str, ...] = ("gan",)
    captured = ("discriminator_step", "r1_step", "generator_step", "path_length_step")

    def __init__(self, config: Config, networks: Networks, *, average: Callable[[Iterable[Tensor]], None]) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator = cast(Generator, networks["generator"])
        self.discriminator = cast(Discriminator, networks["discriminator"])
        self.augment = cast(Augmentation | None, networks.get("augmentation"))
        has_r1, has_path = config.r1_gamma != 0, config.path_weight > 0
        self.optimizers: dict[str, Optimizer] = {
            "generator": lazy_adam(self.generator, config.learning_rate, every=config.path_every if has_path else None),
            "discriminator": lazy_adam(
                self.discriminator, config.learning_rate, every=config.r1_every if has_r1 else None
            ),
        }
        self.counts = {"steps": 0, "images_adapted": 0}

    def phase(self, progress: float) -> str:
        """There is one."""
        return "gan"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that both networks learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing to prepare."""

    def step(self, x: Tensor, progress: float) -> dict[str, Tensor]:
        """A step of each network on x [N, 3, h, w] in [-1, 1], and the lazy terms that are due; the losses by name."""
        config, done = self.config, self.counts["steps"]
        losses = self.discriminator_step(x)
        if config.r1_gamma != 0 and done % config.r1_every == 0:
            losses |= self.r1_step(x)
        losses |= self.generator_step(len(x), x.device)
        if config.path_weight > 0 and done % config.path_every == 0:
            losses |= self.path_length_step(max(1, len(x) // 2), x.device)
        follow(self.networks["average"], self.generator, decay=self.average_decay(len(x)))
        self.counts["steps"] += 1
        return losses | self._adapted()

    def discriminator_step(self, x: Tensor) -> dict[str, Tensor]:
        """The logistic loss of real and generated pictures."""
        torch.clear_autocast_cache()  # it has the weights as they were before the last step
        losses = []
        for part, share in shares(x, self.config.accumulate):
            with torch.no_grad():
                fake = self.generator.synthesis(self._mixed(self._mapped(self._latents(len(part), x.device))))
            real_scores = self._scores(part)
            loss = gan_losses.logistic_discriminator_loss(real_scores, self._scores(fake))
            losses.append(self._backward(loss, self.discriminator, share=share))
            if self.augment is not None:
                self.augment.observe(real_scores)
        self._update("discriminator")
        return {"discriminator": torch.stack(losses).sum()}

    def r1_step(self, x: Tensor) -> dict[str, Tensor]:
        """R1 on real pictures, `r1_every` times its weight; what is reported has that of a single step."""
        torch.clear_autocast_cache()
        losses = []
        for part, share in shares(x, self.config.accumulate):
            real = part.detach().requires_grad_()
            penalty = gan_losses.r1_penalty(self._scores(real), real, gamma=self.gamma(len(x)))
            losses.append(self._backward(penalty, self.discriminator, share=share, weight=self.config.r1_every))
        self._update("discriminator")
        return {"r1": torch.stack(losses).sum()}

    def generator_step(self, n: int, device: torch.device) -> dict[str, Tensor]:
        """The non-saturating loss of n pictures; the mean w follows."""
        torch.clear_autocast_cache()
        losses = []
        for z, share in shares(self._latents(n, device), self.config.accumulate):
            w = self._mapped(z)
            loss = gan_losses.logistic_generator_loss(self._scores(self.generator.synthesis(self._mixed(w))))
            losses.append(self._backward(loss, self.generator, share=share))
            self.generator.mean_w.lerp_(w.detach().mean(dim=(0, 1)), (1 - self.config.w_decay) * share)
        self._update("generator", [self.generator.mean_w])
        return {"generator": torch.stack(losses).sum()}

    def path_length_step(self, n: int, device: torch.device) -> dict[str, Tensor]:
        """The path length's penalty of n pictures, `path_every` times its weight; the mean length follows."""
        torch.clear_autocast_cache()
        losses, means, mean = [], [], self.generator.path_length
        for z, share in shares(self._latents(n, device), self.config.accumulate):
            w = self._mixed(self._mapped(z))
            lengths = gan_losses.path_lengths(w, self.generator.synthesis(w))
            means.append(lengths.detach().mean() * share)
            followed = mean.lerp(lengths.detach().mean(), self.config.path_decay)
            loss = self.config.path_weight * gan_losses.path_length_penalty(lengths, followed)
            losses.append(self._backward(loss, self.generator, share=share, weight=self.config.path_every))
        mean.lerp_(torch.stack(means).sum(), self.config.path_decay)
        self._update("generator", [mean])
        return {"path_length_penalty": torch.stack(losses).sum(), "path_length": mean.clone()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """As many pictures as x has, of the same latents at every call: nothing is reconstructed by a generator."""
        z = latents(self.config, len(x), rng=torch.Generator().manual_seed(0)).to(x.device)
        return pictures(self.config, self.networks, styles(self.config, self.networks, z))

    def gamma(self, n: int) -> float:
        """The weight of R1 for batches of n."""
        gamma = self.config.r1_gamma
        return 0.0002 * self.config.input_px**2 / n if gamma == "auto" else gamma

    def average_decay(self, n: int) -> float:
        """What is kept of the average after a step of n images a worker."""
        half_life, ramp = float(self.config.half_life_images), self.config.average_ramp
        if ramp is not None:
            half_life = min(half_life, ramp * self.counts.get("images_shown", 0))
        return decay_of(n, half_life_images=half_life)

    def _latents(self, n: int, device: torch.device) -> Tensor:
        """Z [n, 2, latent]: two of each picture where styles are mixed, else one."""
        return torch.randn(n, 2 if self.config.style_mixing > 0 else 1, self.config.latent_dim, device=device)

    def _mapped(self, z: Tensor) -> Tensor:
        """W [n, 2, dim], or [n, 1, dim]."""
        w: Tensor = self.generator.mapping(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return w

    def _mixed(self, w: Tensor) -> Tensor:
        """W [n, styles, dim] for the layers."""
        first, n_styles = w[:, 0], self.generator.n_styles
        if self.config.style_mixing == 0:
            return first[:, None].expand(-1, n_styles, -1)
        return mixed(first, w[:, 1], n_styles, share=self.config.style_mixing)

    def _scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self.discriminator(x if self.augment is None else self.augment(x))
        return scores

    def _backward(self, loss: Tensor, network: nn.Module, *, share: float, weight: float = 1.0) -> Tensor:
        """Add to the gradients of one network; returns this part's share of the loss."""
        (loss * (share * weight)).backward(inputs=list(network.parameters()))
        return loss.detach() * share

    def _update(self, name: str, followed: list[Tensor] | None = None) -> None:
        """A step of Adam; what has followed its mean is averaged over the workers with the gradients."""
        grads = [p.grad for p in self.networks[name].parameters() if p.grad is not None]
        self.average([*grads, *(followed or [])])
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()

    def _adapted(self) -> dict[str, Tensor]:
        """Let the augmentation follow how the discriminator scored, where that is due."""
        if self.augment is None or self.config.ada is None or self.counts["steps"] % self.config.ada.interval:
            return {}
        shown = self.counts.get("images_shown", 0)
        self.augment.adapt(shown - self.counts["images_adapted"], average=self.average)
        self.counts["images_adapted"] = shown
        return {"ada_p": self.augment.p.clone(), "ada_r_t": self.augment.r_t.clone()}


def lazy_adam(network: nn.Module, learning_rate: float, *, every: int | None) -> Adam:
    """Adam for `every` + 1 updates in place of `every`: the rate times their ratio, betas to its power (appendix B).

    Args:
        network: whose weights it moves.
        learning_rate: before the correction, with betas 0 and 0.99.
        every: steps from one lazy term to the next; None without one.
    """
    ratio = 1.0 if every is None else every / (every + 1)
    is_cuda = next(network.parameters()).is_cuda
    return Adam(
        network.parameters(), lr=learning_rate * ratio, betas=(0.0, 0.99**ratio), eps=1e-8, fused=is_cuda
    )  # fmt: skip


def mixed(first: Tensor, second: Tensor, n_styles: int, *, share: float) -> Tensor:
    """W [n, styles, dim]: `first` up to a layer drawn for each picture, then `second`.

    A share of the pictures are mixed; the others have `first` in all layers (Karras et al. 2019, section 3.1).
    """
    n, device = len(first), first.device
    crossover = torch.randint(1, n_styles, (n,), device=device)
    crossover = torch.where(torch.rand(n, device=device) < share, crossover, n_styles)
    is_first = torch.arange(n_styles, device=device) < crossover[:, None]
    return torch.where(is_first[..., None], first[:, None], second[:, None])
