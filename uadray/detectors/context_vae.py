"""Context-encoding variational autoencoder (ceVAE). https://arxiv.org/abs/1812.05941 .

Zimmerer et al. 2019.

As in the paper: one encoder and one decoder learn two things at once, the bound of a variational autoencoder on
tiles as they are, and to repeat tiles of which squares were painted over (a context encoder), by the mean of z, without
its variance. The three losses, KL divergence, reconstruction and reconstruction from context, weigh the same. The
score of a tile is minus the bound at the mean of z; that of a pixel is the reconstruction error times the size of the
gradient of the KL divergence, smoothed.

Different: the variance of x given z is one learned number for both reconstructions (the authors' errors have a fixed
scale). The networks are those of `uadray.networks.coding`: as many halvings as lead to 4 x 4, normalised tile by tile.
Gradients of a tile are not scaled to [0, 1] over its batch. Squares are those of the authors' later code, see
`likelihood.masking`. The paper has no adversarial term: with `adversarial` pictures of painted tiles are also to please
a critic, as in context encoders (Pathak et al. 2016, https://arxiv.org/abs/1604.07379, eq. 2 and 3); here it is of
Wasserstein's kind, and its weight is that of `autoencoding.adversary`. The paper's text could not be opened: its sizes
are from memory.

What it assumes: what is abnormal is improbable under a density of normal tiles, or is not what their surroundings let
expect. A dark tile or one of much contrast has a high reconstruction error too, whatever it shows.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.autoencoding.adversary import Adversarial, Adversary
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.likelihood.bound_scores import BoundScore, MeanPicture, PosteriorMap, ScoreKind
from uadray.detectors.likelihood.input_gradients import MapKind
from uadray.detectors.likelihood.masking import masked
from uadray.detectors.likelihood.vae_part import (
    bound_of,
    bound_optimizer,
    drawn_noise,
    observation_of,
    posterior,
    vae_networks,
)
from uadray.detectors.trainee import Average, Losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.outline import Networks
from uadray.networks.wgan_gp import Critic

BOUND = ("encoder", "decoder", "observation")
"""Networks that learn by the bound; the critic has its own loss."""


class Config(configuration.Config):
    """ceVAE. The paper's size: `input_px` 64, `latent_dim` 1024, up to 1024 channels, `learning_rate` 2e-4.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        width: channels at half the resolution; they double down to 4 x 4, up to eight times.
        latent_dim: length of z.
        beta: weight of the KL divergence in training; 1 is the bound.
        context_weight: of the reconstruction of painted tiles (paper: as the other one's, 1); 0 leaves a VAE.
        most_squares: that are painted over.
        largest_share: of a tile's side, that the side of a square has at the most (authors' code: half).
        adversarial: a critic of the pictures of painted tiles; None is the paper's.
        learning_rate: of encoder and decoder, and of the critic.
        score: of a tile, see `likelihood.bound_scores` (paper: elbo).
        map: of its pixels, see `likelihood.input_gradients` (paper: combined).
        draws: of z for a score; 0 takes the mean of z.
        gradient_draws: noisy copies of a tile that gradients are averaged over; 0 takes the tile as it is.
        gradient_noise: deviation of their noise, of images in [-1, 1] (Smilkov et al. 2017: a tenth of the range).
        blur_px: deviation of the Gaussian over gradients (authors' code: 3).
    """

    kind: Literal["context_vae"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=64, ge=1, le=4096)
    beta: float = Field(default=1.0, ge=0, le=1e6)
    context_weight: float = Field(default=1.0, ge=0, le=1e6)
    most_squares: int = Field(default=3, ge=1, le=16)
    largest_share: float = Field(default=0.5, gt=0, le=1)
    adversarial: Adversarial | None = None
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
    """Those of the VAE, and the critic where one is asked for."""
    found = vae_networks(width=config.width, input_px=config.input_px, latent_dim=config.latent_dim)
    if config.adversarial is not None:
        found["critic"] = Critic(width=config.width, input_px=config.input_px)
    return found


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
    """Steps of encoder and decoder on tiles and on painted tiles; before each of them the critic's, if there is one."""

    phases: tuple[str, ...] = ("bound and context",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.parameters = [p for name in BOUND for p in networks[name].parameters()]
        bound = {name: networks[name] for name in BOUND}
        self.optimizer = bound_optimizer(bound, learning_rate=config.learning_rate)
        self.optimizers: dict[str, Optimizer] = {"vae": self.optimizer}
        self.counts: dict[str, int] = {}
        self.adversary: Adversary | None = None
        if config.adversarial is not None:
            self.adversary = Adversary(networks["critic"], config.adversarial, config.learning_rate, average)
            self.optimizers["critic"] = self.adversary.optimizer

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """Of all networks."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Start the variance of x."""
        observation_of(self.networks).fit(x, average=self.average)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step on x [N, 3, h, w] in [-1, 1]; the three losses in nats a pixel, and those of the critic."""
        bound = bound_of(self.networks, x, drawn_noise(len(x), self.config.latent_dim, x.device))
        reconstruction, kl = -bound.log_likelihood.mean(), bound.kl.mean() / x[0, 0].numel()
        context, outputs = self._context(x)
        told: dict[str, float | Tensor] = {}
        loss = reconstruction + self.config.beta * kl + self.config.context_weight * context
        if self.adversary is not None:
            picture = observation_of(self.networks).picture(outputs)
            told |= self.adversary.learn(x, picture.detach())
            adversarial = self.adversary.term(picture)
            loss, told["adversarial"] = loss + adversarial, adversarial.detach()
        update(self.optimizer, self.parameters, loss, self.average)
        parts = {"reconstruction": reconstruction, "kl": kl, "context": context}
        return told | {name: part.detach() for name, part in parts.items()}

    def _context(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(x | z) a pixel, z the mean of q(z | painted x), and what the decoder says."""
        painted = masked(x, most_squares=self.config.most_squares, largest_share=self.config.largest_share)
        mean, _ = posterior(self.networks["encoder"], painted)
        outputs = self.networks["decoder"](mean)
        return -observation_of(self.networks)(x, outputs).mean(), outputs

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """The picture of the mean of z."""
        return MeanPicture(self.networks)(PosteriorMap(self.networks["encoder"])(x))
