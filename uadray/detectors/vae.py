"""Variational autoencoder (VAE). https://arxiv.org/abs/1312.6114 .

Kingma and Welling 2014; scores and maps of Zimmerer et al. 2019 (https://arxiv.org/abs/1907.02796), categories of stain
in place of intensities as an option.

As in the paper: an encoder says mean and variance of a normal z, a decoder what x is given z, and both learn by the
evidence lower bound with reparameterised draws of z and its KL divergence in closed form (eq. 7, appendix B). A tile's
score is a part of that bound, the bound, or the importance-weighted one (Burda et al. 2016, eq. 8). Maps are gradients
of KL divergence, reconstruction or both with respect to the pixels, the reconstruction error, or it times KL gradient.

Different: convolutions of DCGAN's shape, normalised tile by tile (the paper's networks are dense). The variance of x
given z is one learned number, so that the bound is in nats (`likelihood.observation`). `beta` weighs KL in training
alone; scores are the bound's. Draws of z and noise of gradients are the same for every tile. The map `combined` is the
product itself: the authors scale gradients to [0, 1] over a batch first, and a tile's map would depend on others.
With `reconstruction: categorical` the bound is of the classes of the pixels, see `likelihood.categories`.

What it assumes: what is abnormal is improbable under a density of normal tiles, or is not repeated by its decoder. A
dark tile or one of much contrast has a high reconstruction error too, whatever it shows.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.likelihood.bound_scores import BoundScore, MeanPicture, PosteriorMap, ScoreKind
from uadray.detectors.likelihood.input_gradients import MapKind
from uadray.detectors.likelihood.vae_part import bound_of, bound_optimizer, drawn_noise, observation_of, vae_networks
from uadray.detectors.trainee import Average, Losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.outline import Networks


class Config(configuration.Config):
    """VAE.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at half the resolution, of encoder and decoder; they double down to 4 x 4, up to eight times.
        latent_dim: length of z.
        reconstruction: what the decoder says of a pixel: its colour, or which class of stain it has.
        colours: classes of stain, where they are asked for.
        beta: weight of the KL divergence in training; 1 is the bound.
        learning_rate: of Adam.
        score: of a tile, see `likelihood.bound_scores`.
        map: of its pixels, see `likelihood.input_gradients`.
        draws: of z for a score; 0 takes the mean of z.
        gradient_draws: noisy copies of a tile that gradients are averaged over; 0 takes the tile as it is.
        gradient_noise: deviation of their noise, of images in [-1, 1] (Smilkov et al. 2017: a tenth of the range).
        blur_px: deviation of the Gaussian over gradients (authors' code: 3).
    """

    kind: Literal["vae"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=64, ge=1, le=4096)
    reconstruction: Literal["intensity", "categorical"] = "intensity"
    colours: int = Field(default=12, ge=2, le=64)
    beta: float = Field(default=1.0, ge=0, le=1e6)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    score: ScoreKind = "elbo"
    map: MapKind = "combined"
    draws: int = Field(default=0, ge=0, le=1000)
    gradient_draws: int = Field(default=0, ge=0, le=100)
    gradient_noise: float = Field(default=0.2, ge=0, le=2)
    blur_px: float = Field(default=3.0, ge=0, le=32)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        check_side(self.input_px)
        if self.score == "importance" and not self.draws:
            raise ValueError("score importance needs draws, 1 or more; 64 is a start")
        return self


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder, decoder, and how pixels lie about what the decoder says."""
    colours = config.colours if config.reconstruction == "categorical" else 0
    return vae_networks(width=config.width, input_px=config.input_px, latent_dim=config.latent_dim, colours=colours)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Posterior, picture of its mean, and the configured score and map."""
    return assemble(
        networks,
        mapping=lambda placed: PosteriorMap(placed["encoder"]),
        reconstruct=MeanPicture,
        score=lambda placed: BoundScore(placed, config),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Steps of encoder and decoder up the bound."""

    phases: tuple[str, ...] = ("bound",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.parameters = [p for network in networks.values() for p in network.parameters()]
        self.optimizer = bound_optimizer(networks, learning_rate=config.learning_rate)
        self.optimizers: dict[str, Optimizer] = {"vae": self.optimizer}
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """Of encoder and decoder."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Find the classes of stain, where pixels have classes, or start the variance of x."""
        observation_of(self.networks).fit(x, average=self.average)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step on x [N, 3, h, w] in [-1, 1]; both parts of the bound in nats a pixel."""
        bound = bound_of(self.networks, x, drawn_noise(len(x), self.config.latent_dim, x.device))
        reconstruction, kl = -bound.log_likelihood.mean(), bound.kl.mean() / x[0, 0].numel()
        update(self.optimizer, self.parameters, reconstruction + self.config.beta * kl, self.average)
        return {"reconstruction": reconstruction.detach(), "kl": kl.detach()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """The picture of the mean of z."""
        return MeanPicture(self.networks)(PosteriorMap(self.networks["encoder"])(x))
