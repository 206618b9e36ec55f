"""Restoration with a normative prior. https://arxiv.org/abs/2005.00031 .

Chen, You, Tezcan and Konukoglu 2020, "Unsupervised lesion detection via image restoration with a normative prior"; its
first version is You et al. 2019 (MIDL).

As in the paper: a VAE, or a VAE whose latent is a mixture of Gaussians (GMVAE, 6 clusters), learns normal images. A
tile is restored: moved by gradient ascent to an image that the prior finds more probable and whose difference from the
tile has little total variation (see `uadray.detectors.likelihood.map_restoration`). The map is |x - x_restored|, the
score of a tile its mean. The weight lambda of the total variation is chosen on normal images alone: a few of them are
restored with each lambda of a grid, and the one with the least mean |x - x_restored| is taken, since a normal image is
to stay what it is.

Different: lambda is chosen on tiles of the training in its last steps, not on images that were held out for it, and of
another grid (authors' code: 0 to 3.8 in steps of 0.2). The steps are a fifth as many and five times as large, so that
they lead as far. z and w are vectors, of which one variance of x is learned beside them; there are no brain masks. The
paper's text could not be opened: it is followed from its abstract, from memory, and from the authors' code.

What the choice of lambda comes to: were the maximum found exactly, the change would have the less total variation the
larger lambda is, without end. There is a least change because steps along the subgradient overshoot where step size
times lambda is large. And total variation is blind to a shift of a tile's mean colour: on 16 tiles of lymph nodes the
mean change was .225 with lambda 0, .075 with 0.8, .079 with 1.6 and .152 with 6.4, and in each the mean shift was .062
to .064. So the score is mostly how far a tile's stain is from the mean.

What it assumes: what is abnormal is what a variational autoencoder of normal tiles finds improbable, and of few edges,
so that it can be taken away at little total variation.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.inversion.generator_part import steps_for_last
from uadray.detectors.latents import Latent
from uadray.detectors.likelihood.chosen_weight import ChosenWeight
from uadray.detectors.likelihood.gmvae import gmvae_networks, mixture_bound_of
from uadray.detectors.likelihood.map_restoration import Elbo, fixed_noise, restored, step_sizes
from uadray.detectors.likelihood.observation import GaussianObservation
from uadray.detectors.likelihood.vae_part import bound_of, bound_optimizer, drawn_noise, vae_networks
from uadray.detectors.scores import Difference, PixelResidual
from uadray.detectors.trainee import Average, Losses
from uadray.errors import WorkError
from uadray.generators.wgan_gp import check_side
from uadray.networks.outline import Networks

Weight = Annotated[float, Field(ge=0, le=1e4)]

CLUSTER_NATS = 0.5
"""Below which the c prior of a GMVAE costs nothing in training (authors' code)."""

MIXTURE_WIDTH = 64
"""Of the hidden layer of p(z | w, c) (authors' code)."""

CHOOSING_TILES = 2
"""Normal tiles that are restored in one step of a training, with each lambda: 16 images, a group of the ascent."""

SHOWN_STEPS = 20
"""Of the restorations that people look at during a training."""


class Config(configuration.Config):
    """Restoration.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at half the resolution.
        latent_dim: length of z.
        prior: what learns normal tiles.
        components: clusters of the GMVAE (authors: 6).
        w_dim: length of the GMVAE's w.
        steps: of the ascent (authors: 500).
        step_size: of its first fifth; the others are 0.4 as large (authors: 5e-3). As the authors' 500 steps make a way
            of 1.3 in units of the objective's gradient, so do 100 of 0.025.
        latents: whether z is drawn in each step of the ascent, as in the paper, or its mean taken.
        tv_weight: lambda; None chooses it.
        tv_weights: of which it is chosen.
        choosing_fraction: last share of the steps of a training, in which it is chosen.
        choosing_tiles: normal tiles that it is chosen on, of each worker.
        difference: what the score means of x - x_restored: its absolute value, or its square.
        learning_rate: of Adam.
    """

    kind: Literal["restoration"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=128, ge=2, le=4096)
    prior: Literal["vae", "gmvae"] = "vae"
    components: int = Field(default=6, ge=1, le=256)
    w_dim: int = Field(default=8, ge=1, le=1024)
    steps: int = Field(default=100, ge=0, le=100_000)
    step_size: float = Field(default=0.025, gt=0, le=10)
    latents: Literal["drawn", "mean"] = "drawn"
    tv_weight: Weight | None = None
    tv_weights: tuple[Weight, ...] = Field(
        default=(0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4), min_length=1, max_length=64
    )
    choosing_fraction: float = Field(default=0.02, gt=0, lt=1)
    choosing_tiles: int = Field(default=16, ge=1, le=100_000)
    difference: Difference = "absolute"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self

    @property
    def learning_until(self) -> float:
        """Share of the steps that train the prior."""
        return 1.0 if self.tv_weight is not None else 1 - self.choosing_fraction

    @property
    def least_steps(self) -> int:
        """Steps of a training in which lambda is chosen."""
        return 1 if self.tv_weight is not None else steps_for_last(self.choosing_fraction)

    @property
    def noise_dim(self) -> int:
        """Numbers that are drawn for z, and w where there is one."""
        return self.latent_dim + (self.w_dim if self.prior == "gmvae" else 0)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None: everything is learned."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The prior's, and lambda."""
    sizes = {"width": config.width, "input_px": config.input_px, "latent_dim": config.latent_dim}
    mixture = {"w_dim": config.w_dim, "components": config.components, "mixture_width": MIXTURE_WIDTH}
    prior = vae_networks(**sizes) if config.prior == "vae" else gmvae_networks(**sizes, **mixture)
    return {**prior, "tv_weight": ChosenWeight(config.tv_weights, config.tv_weight)}


def elbo_of(config: Config, networks: Mapping[str, nn.Module]) -> Elbo:
    """The bound of images, of given noise."""
    if config.prior == "vae":
        return lambda x, noise: bound_of(networks, x, noise).elbo
    return lambda x, noise: mixture_bound_of(networks, x, noise).elbo


class RestorationMap:
    """The stage `map`: x -> x_restored [n, 3, h, w]. Lambda is the chosen one, unless given by image."""

    def __init__(self, config: Config, networks: Mapping[str, nn.Module], *, steps: int | None = None) -> None:
        self.config = config
        self.networks = {name: networks[name] for name in networks if name != "tv_weight"}
        self.chosen = cast(ChosenWeight, networks["tv_weight"])
        self.sizes = step_sizes(config.steps, config.step_size)[:steps]
        drawn = fixed_noise(config.steps, config.noise_dim)
        self.noise = drawn if config.latents == "drawn" else torch.zeros_like(drawn)
        self._is_checked = False

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """Restored with the chosen lambda.

        Raises:
            WorkError: it was not chosen.
        """
        if not self._is_checked and not bool(self.chosen.weight.isfinite()):
            raise WorkError("lambda of this detector was not chosen on normal tiles; train it to its end")
        self._is_checked = True
        return self.with_weights(x, self.chosen.weight.expand(len(x)))

    def with_weights(self, x: Float[Tensor, "n 3 h w"], weights: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
        """Restored, each with its own lambda."""
        observation = cast(GaussianObservation, self.networks["observation"])
        return restored(
            x, weights, elbo=elbo_of(self.config, self.networks), scale=2 * observation.variance(), noise=self.noise,
            sizes=self.sizes,
        )  # fmt: skip


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """The ascent; the latent is the picture; the difference."""
    return assemble(
        networks,
        mapping=lambda placed: RestorationMap(config, placed),
        reconstruct=lambda placed: _as_it_is,
        score=lambda placed: PixelResidual(config.difference),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages, searches=True,
    )  # fmt: skip


def _as_it_is(z: Latent) -> Tensor:
    return cast(Tensor, z)


class Trainee:
    """The prior, by its bound; then some normal tiles are restored with each lambda."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.chosen = cast(ChosenWeight, networks["tv_weight"])
        self.observation = cast(GaussianObservation, networks["observation"])
        self.parameters = [p for network in networks.values() for p in network.parameters()]
        self.optimizers: dict[str, Optimizer] = {"prior": bound_optimizer(networks, learning_rate=config.learning_rate)}
        self.counts: dict[str, int] = {"restored_tiles": 0}
        self.phases: tuple[str, ...] = ("autoencoder",) if config.tv_weight is not None else ("autoencoder", "choosing")

    def phase(self, progress: float) -> str:
        """`choosing` at the end, unless lambda is given."""
        return "autoencoder" if progress < self.config.learning_until else "choosing"

    def learning_rate(self, progress: float) -> str:
        """Of the prior."""
        return "learning_rate" if progress < self.config.learning_until else ""

    def prepare(self, x: Tensor) -> None:
        """Start the variance of x at that of normal tiles."""
        self.observation.fit(x, average=self.average)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of the prior on x [N, 3, h, w] in [-1, 1]; at the end restorations of some of x."""
        if progress < self.config.learning_until:
            return self.prior_step(x)
        left = self.config.choosing_tiles - self.counts["restored_tiles"]  # as many on every worker
        x = x[: min(left, CHOOSING_TILES)]
        if not len(x):
            return {}
        self.counts["restored_tiles"] += len(x)
        return self.choosing_step(x)

    def prior_step(self, x: Tensor) -> dict[str, Tensor]:
        """Raise the bound; its terms in nats a tile, by name."""
        noise = drawn_noise(len(x), self.config.noise_dim, x.device)
        if self.config.prior == "vae":
            bound = bound_of(self.networks, x, noise)
            loss, terms = -bound.elbo.mean(), {"log_likelihood": bound.log_likelihood.flatten(1).sum(1), "kl": bound.kl}
        else:
            mixture = mixture_bound_of(self.networks, x, noise)
            loss = -mixture.elbo_cut(CLUSTER_NATS).mean()
            terms = {"log_likelihood": mixture.log_likelihood.flatten(1).sum(1)}
            terms |= {name: getattr(mixture, name) for name in ("conditional_prior", "w_prior", "c_prior")}
        update(self.optimizers["prior"], self.parameters, loss, self.average)
        return {"loss": loss.detach()} | {name: term.detach().mean() for name, term in terms.items()}

    @torch.no_grad()
    def choosing_step(self, x: Tensor) -> dict[str, Tensor]:
        """Restore normal tiles with each lambda, and count how much they change."""
        grid = torch.tensor(self.chosen.grid, device=x.device)
        mapping = RestorationMap(self.config, self.networks)
        many = x.repeat_interleave(len(grid), 0)
        changes = (mapping.with_weights(many, grid.repeat(len(x))) - many).abs().flatten(1).mean(1)
        self.chosen.see(changes.view(len(x), len(grid)), self.average)
        means = self.chosen.changes / self.chosen.count
        return {f"change_{weight:g}": mean for weight, mean in zip(self.config.tv_weights, means, strict=True)}

    def finish(self) -> None:
        """Choose lambda, unless it is given."""
        if self.config.tv_weight is None:
            self.chosen.choose()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Restored in a few steps with lambda, or with the first of the grid until it is chosen."""
        weight = self.chosen.weight.nan_to_num(self.chosen.grid[0])
        return RestorationMap(self.config, self.networks, steps=SHOWN_STEPS).with_weights(x, weight.expand(len(x)))
