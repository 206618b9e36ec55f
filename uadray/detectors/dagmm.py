"""Deep autoencoding Gaussian mixture (DAGMM): how improbable a tile's code and reconstruction error are together.

Zong et al. 2018, https://openreview.net/forum?id=BJJLHbb0- .

As in the paper: an autoencoder compresses a tile to a short code; z is the code, the relative Euclidean distance and
the cosine similarity of tile and reconstruction (section 3.2). A second network tells which of K Gaussians z belongs
to, and the Gaussians follow from what it tells of a batch (equations 4 and 5). Both learn together, from the start: the
squared error, 0.1 times the mean energy -log p(z) (equation 6) and 0.005 times the inverse variances (equation 7). The
score is the energy.

Different: the autoencoder is one of convolutions, normalised tile by tile (paper: tables of up to 274 numbers, layers
of tanh). The Gaussians that score follow from normal tiles of the last steps, in which nothing learns (paper: of all
training samples). The squared error is summed over a tile's numbers as in the paper; tiles have 100 times as many, so
that the energy weighs less beside it than there. The paper's text could not be opened: sections and equations are from
memory.

What it assumes: a few numbers say what normal tissue looks like, and what is abnormal lies apart from normal tiles in
these numbers, in how well they repeat the tile, or in both together.
"""

from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.latents import EncoderMap, Latent
from uadray.detectors.likelihood.soft_mixture import (
    SoftMixture,
    mixture_of,
    mixture_sums,
    sample_energy,
    singularity_penalty,
)
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import Average, Losses, UnsuitableTilesError
from uadray.generators.wgan_gp import check_side
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks

DISTANCES = 2
"""Numbers of z besides the code: relative Euclidean distance and cosine similarity (section 4.3)."""

DROPOUT = 0.5
"""Of the estimation network (section 4.3)."""

LEAST_NORM = 1e-6
"""Of a tile, which divides its distances: one that is grey everywhere has norm 0."""


class Config(configuration.Config):
    """DAGMM. The paper's sizes: codes of 1 to 8 numbers, 2 to 4 Gaussians, batches of 1,024 (section 4.3).

    Attributes:
        input_px: side of the network's input, a power of two from 16.
        width: channels of the autoencoder at half the resolution.
        latent_dim: length of the code.
        gaussians: K.
        estimation_width: of the hidden layer that tells memberships (paper: 10).
        energy_weight: lambda_1 (paper: 0.1).
        singularity_weight: lambda_2 (paper: 0.005).
        fit_fraction: last share of the steps, in which nothing learns and the Gaussians are fitted.
        learning_rate: of Adam (paper: 1e-4).
    """

    kind: Literal["dagmm"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=8, ge=1, le=256)
    gaussians: int = Field(default=4, ge=1, le=64)
    estimation_width: int = Field(default=10, ge=1, le=1024)
    energy_weight: float = Field(default=0.1, ge=0, le=1e6)
    singularity_weight: float = Field(default=0.005, ge=0, le=1e6)
    fit_fraction: float = Field(default=0.1, gt=0, lt=1)
    learning_rate: float = Field(default=1e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self

    @property
    def least_steps(self) -> int:
        """Of a training: so many have one in which the Gaussians are fitted, after one that learns."""
        return int(1 / self.fit_fraction) + 1


class Estimation(nn.Module):
    """z to memberships of K Gaussians, which add up to 1 (equation 4)."""

    def __init__(self, dimensions: int, *, width: int, gaussians: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dimensions, width)
        self.dropout = nn.Dropout(DROPOUT)
        self.memberships = nn.Linear(width, gaussians)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Gamma, in float32."""
        logits: Tensor = self.memberships(self.dropout(self.hidden(z).tanh()))
        return logits.float().softmax(1)


def with_distances(
    code: Float[Tensor, "n latent"], x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n d"]:
    """z: the code, ||x - x_hat|| / ||x||, and the cosine of the angle between both (section 3.2), in float64.

    In float32 the order in which pixels are added up shows in an energy of small variances.
    """
    a, b = x.double().flatten(1), x_hat.double().flatten(1)
    euclidean = (a - b).norm(dim=1) / a.norm(dim=1).clamp_min(LEAST_NORM)
    cosine = F.cosine_similarity(a, b, eps=LEAST_NORM)
    return torch.cat([code.double(), euclidean[:, None], cosine[:, None]], 1)


class EnergyScore:
    """The energy of z under the mixture of normal tiles. The stage `score`."""

    def __init__(self, mixture: nn.Module) -> None:
        self.mixture = mixture

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the squared residual, mean over colours: the energy is of the whole tile."""
        picture = picture_of(x_hat)
        energy = self.mixture(with_distances(cast(Tensor, z), x, picture))
        return energy.float(), (x - picture).square().mean(1)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The autoencoder (compression), what tells memberships (estimation), and the mixture that is fitted."""
    d = config.latent_dim + DISTANCES
    return {
        "encoder": VectorEncoder(width=config.width, input_px=config.input_px, outputs=config.latent_dim),
        "decoder": VectorDecoder(width=config.width, input_px=config.input_px, latent_dim=config.latent_dim),
        "estimation": Estimation(d, width=config.estimation_width, gaussians=config.gaussians),
        "mixture": SoftMixture(config.gaussians, d),
    }


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, decoder, energy."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: EnergyScore(placed["mixture"]),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Both networks learn together; then they stand still, and the mixture of normal tiles is fitted."""

    phases: tuple[str, ...] = ("both networks", "mixture")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        mixture = networks["mixture"]
        if not isinstance(mixture, SoftMixture):
            raise TypeError(f"mixture: expected SoftMixture, found {type(mixture).__name__}")
        self.config, self.networks, self.average, self.mixture = config, networks, average, mixture
        self.encoder, self.decoder, self.estimation = (networks[n] for n in ("encoder", "decoder", "estimation"))
        self.learning = [p for n in (self.encoder, self.decoder, self.estimation) for p in n.parameters()]
        self.optimizers: dict[str, Optimizer] = {
            "adam": Adam(self.learning, lr=config.learning_rate, fused=self.learning[0].is_cuda or None)
        }
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """The mixture for the last `fit_fraction` of the training."""
        return self.phases[progress >= 1 - self.config.fit_fraction]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that both networks learn by; the mixture has none."""
        return "learning_rate" if self.phase(progress) == "both networks" else ""

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """Learn from tiles x [N, 3, h, w] in [-1, 1], or add them to the sums of the mixture."""
        return self.joint_step(x) if self.phase(progress) == "both networks" else self.mixture_step(x)

    def joint_step(self, x: Tensor) -> dict[str, Tensor]:
        """One step of Adam down equation 7, the Gaussians those of this batch."""
        self.estimation.train()
        code = self.encoder(x)
        x_hat = self.decoder(code)
        z = with_distances(code, x, x_hat)
        parameters = mixture_of(mixture_sums(z, self.estimation(z.float())))
        error = (x - x_hat.float()).square().flatten(1).sum(1).mean()
        energy, penalty = sample_energy(z, parameters).mean(), singularity_penalty(parameters[2])
        loss = error + self.config.energy_weight * energy + self.config.singularity_weight * penalty
        update(self.optimizers["adam"], self.learning, loss, self.average)
        return {"squared_error": error.detach(), "energy": energy.detach(), "singularity": penalty.detach()}

    @torch.no_grad()
    def mixture_step(self, x: Tensor) -> dict[str, Tensor]:
        """Add tiles to the sums, everything as it will score."""
        self.estimation.eval()
        code = self.encoder(x)
        z = with_distances(code, x, self.decoder(code))
        gamma = self.estimation(z.float())
        sums = mixture_sums(z, gamma)
        self.average(sums)
        self.mixture.add(sums)
        return {"largest_membership": gamma.max(1).values.mean()}

    @torch.no_grad()
    def finish(self) -> None:
        """Fit the mixture to all tiles of the last phase, which are the same sums on every worker.

        Raises:
            UnsuitableTilesError: there was none.
        """
        if not self.mixture.get_buffer("count"):
            raise UnsuitableTilesError("no step of this training was left to fit the mixture; give it more steps")
        self.mixture.fit()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode what was encoded."""
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat
