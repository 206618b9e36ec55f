"""Deep SVDD: how far a network takes a tile from the centre of a sphere around normal ones.

Ruff et al. 2018, http://proceedings.mlr.press/v80/ruff18a.html .

As in the paper: an encoder without biases learns as an autoencoder first; the centre c is the mean of what it then
gives of normal tiles, with coordinates near 0 moved away from it; then the encoder learns to bring normal tiles to c
(One-Class Deep SVDD, equation 4), or into a sphere about c whose radius R holds all but a share nu of them
(soft-boundary, equation 3). Weights decay. Adam's rate falls to a tenth after a third of the last phase, and late in
the first one. The score is ||phi(x) - c||^2, of the soft boundary less R^2 (section 3.3).

Different: phases are shares of the steps. R is the quantile of the distances of the current batch, the mean over
workers, as in the authors' code (paper: of all tiles, every fifth epoch), and 0 in its first tenth. Tiles are not
brought to one contrast (paper: global contrast normalisation): their stain tells something. Each worker normalises by
its own tiles. The paper's text could not be opened: sections and equations are from memory, sizes and rates from the
authors' code.

What it assumes: normal tiles have common factors of variation, which a network that brings them together has to keep,
and what is abnormal lacks them; nothing keeps the network from dropping what would tell it from normal tissue.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.gradient_steps import update
from uadray.detectors.latents import EncoderMap, Latent
from uadray.detectors.self_supervised import running_statistics
from uadray.detectors.trainee import Average, Losses, UnsuitableTilesError
from uadray.generators.wgan_gp import check_side
from uadray.networks.lenet import Decoder, Encoder
from uadray.networks.outline import Networks

LEAST_COORDINATE = 0.1
"""Of c: one nearer to 0 is put to it with its sign, since a unit with zero weights would give 0 (authors' code)."""

FALLS_AT = {"autoencoder": 250 / 350, "one class": 50 / 150}
"""Share of a phase after which the learning rate is a tenth (authors' code for CIFAR-10: epochs)."""

WARM_UP = 0.1
"""Share of the last phase in which R stays 0 (authors' code: 10 epochs of 100)."""


class Config(configuration.Config):
    """Deep SVDD. The paper's size for 32 px: `width` 32, `latent_dim` 128, batches of 200, 350 and 150 epochs.

    Attributes:
        input_px: side of the network's input, a power of two from 16.
        width: channels of the first module; they double up to four times as many.
        latent_dim: length of phi(x).
        objective: `one_class` (equation 4) or `soft_boundary` (equation 3).
        nu: of the soft boundary the share of normal tiles that may lie outside (paper: 0.01 and 0.1).
        weight_decay: lambda (paper: 1e-6).
        autoencoder_fraction: share of the steps of the pretraining.
        centre_fraction: share of the steps after it in which the centre is averaged.
        learning_rate: of Adam, in both phases (paper: 1e-4).
    """

    kind: Literal["deep_svdd"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=32, ge=2, le=512)
    latent_dim: int = Field(default=128, ge=1, le=4096)
    objective: Literal["one_class", "soft_boundary"] = "one_class"
    nu: float = Field(default=0.1, gt=0, lt=1)
    weight_decay: float = Field(default=1e-6, ge=0, le=1)
    autoencoder_fraction: float = Field(default=0.6, ge=0, lt=1)
    centre_fraction: float = Field(default=0.05, gt=0, lt=1)
    learning_rate: float = Field(default=1e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        check_side(self.input_px)
        if self.one_class_from >= 1:
            raise ValueError(
                f"autoencoder_fraction {self.autoencoder_fraction:g} and centre_fraction {self.centre_fraction:g} "
                "leave no step to learn the sphere; lower one"
            )
        return self

    @property
    def one_class_from(self) -> float:
        """Progress at which the last phase begins."""
        return self.autoencoder_fraction + self.centre_fraction

    @property
    def least_steps(self) -> int:
        """Of a training: so many have one of each phase."""
        return int(1 / min(self.centre_fraction, 1 - self.one_class_from)) + 1


def squared_distance(z: Float[Tensor, "n d"], centre: Float[Tensor, " d"]) -> Float[Tensor, " n"]:
    """||z - c||^2."""
    return (z.float() - centre).square().sum(1)


def soft_boundary(distance: Float[Tensor, " n"], radius: Float[Tensor, ""], *, nu: float) -> Float[Tensor, ""]:
    """R^2 + 1 / (nu n) sum max(0, d - R^2) of squared distances d (equation 3, without the decay of weights)."""
    return radius.square() + (distance - radius.square()).clamp_min(0).mean() / nu


def away_from_zero(c: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The same with every coordinate at least `LEAST_COORDINATE` from 0, on its side."""
    return torch.where(c < 0, c.clamp_max(-LEAST_COORDINATE), c.clamp_min(LEAST_COORDINATE))


class Sphere(nn.Module):
    """What is fitted without gradients: sums of outputs, their mean c, and the radius R."""

    count: Tensor
    total: Tensor
    centre: Tensor
    radius: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(latent_dim, dtype=torch.float64))
        self.register_buffer("centre", torch.full((latent_dim,), torch.nan))
        self.register_buffer("radius", torch.zeros(()))

    def sums_of(self, z: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
        """What these outputs add: their number and their sum."""
        return self.count.new_tensor(len(z)), z.double().sum(0)

    def add(self, sums: Iterable[Tensor]) -> None:
        """Add what `sums_of` gave, or its mean over workers; c is the mean of all so far."""
        for buffer, more in zip((self.count, self.total), sums, strict=True):
            buffer += more
        self.centre.copy_(away_from_zero(self.total / self.count))


class SphereScore:
    """Squared distance from the centre, of the soft boundary less R^2 (section 3.3). The stage `score`."""

    def __init__(self, sphere: nn.Module, *, has_boundary: bool) -> None:
        self.sphere, self.has_boundary = sphere, has_boundary

    def __call__(
        self, x: Tensor, x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 1 1"]]:
        """The map is the score: the encoder's vector is of the whole tile."""
        sphere = cast(Sphere, self.sphere)
        score = squared_distance(cast(Tensor, z), sphere.centre)
        if self.has_boundary:
            score = score - sphere.radius.square()
        return score, score[:, None, None]


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder, the decoder of its pretraining, and the sphere."""
    sizes = {"width": config.width, "input_px": config.input_px}
    return {
        "encoder": Encoder(**sizes, outputs=config.latent_dim),
        "decoder": Decoder(**sizes, latent_dim=config.latent_dim),
        "sphere": Sphere(config.latent_dim),
    }


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, no picture, distance from the centre."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=no_picture,
        score=lambda placed: SphereScore(placed["sphere"], has_boundary=config.objective == "soft_boundary"),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """An autoencoder, the mean of its codes, then the encoder alone, which draws codes to that mean."""

    phases: tuple[str, ...] = ("autoencoder", "centre", "one class")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        sphere = networks["sphere"]
        if not isinstance(sphere, Sphere):
            raise TypeError(f"sphere: expected Sphere, found {type(sphere).__name__}")
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder, self.sphere = networks["encoder"], networks["decoder"], sphere
        of_encoder = list(self.encoder.parameters())
        self.learning = {"autoencoder": [*of_encoder, *self.decoder.parameters()], "one class": of_encoder}
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(
                parameters, lr=config.learning_rate, weight_decay=config.weight_decay,
                fused=parameters[0].is_cuda or None,
            )
            for name, parameters in self.learning.items()
        }  # fmt: skip
        self.counts: dict[str, int] = {"centre_steps": 0}
        if not config.autoencoder_fraction:
            self.phases = ("centre", "one class")

    def phase(self, progress: float) -> str:
        """Which of the three shares of the training this is."""
        if progress < self.config.autoencoder_fraction:
            return "autoencoder"
        return "centre" if progress < self.config.one_class_from else "one class"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the networks learn by; nothing learns while the centre is averaged."""
        return "" if self.phase(progress) == "centre" else "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step of the phase that `progress` is in on x [N, 3, h, w] in [-1, 1]."""
        match self.phase(progress):
            case "autoencoder":
                return self.autoencoder_step(x, progress / self.config.autoencoder_fraction)
            case "centre":
                return self.centre_step(x)
        begin = self.config.one_class_from
        return self.one_class_step(x, (progress - begin) / (1 - begin))

    def autoencoder_step(self, x: Tensor, progress: float) -> Losses:
        """Encoder and decoder learn to repeat tiles: the mean squared error of pixels."""
        self.encoder.train()
        self.decoder.train()
        loss = F.mse_loss(self.decoder(self.encoder(x)).float(), x)
        self._descend("autoencoder", loss, progress)
        return {"squared_error": loss.detach()}

    @torch.no_grad()
    def centre_step(self, x: Tensor) -> Losses:
        """Add what the encoder gives of tiles as it will score."""
        if self.counts["centre_steps"] == 0:
            self.average(running_statistics(self.encoder))
        self.counts["centre_steps"] += 1
        self.encoder.eval()
        sums = self.sphere.sums_of(self.encoder(x))
        self.average(sums)
        self.sphere.add(sums)
        return {"centre_length": self.sphere.centre.norm()}

    def one_class_step(self, x: Tensor, progress: float) -> Losses:
        """The encoder learns to bring tiles to the centre, or into the sphere; then R becomes their quantile."""
        self.encoder.train()
        distance = squared_distance(self.encoder(x), self.sphere.centre)
        is_soft = self.config.objective == "soft_boundary"
        radius = self.sphere.radius.clone()
        loss = soft_boundary(distance, radius, nu=self.config.nu) if is_soft else distance.mean()
        self._descend("one class", loss, progress)
        if is_soft and progress >= WARM_UP:
            quantile = distance.detach().sqrt().quantile(1 - self.config.nu)
            self.average([quantile])
            self.sphere.radius.copy_(quantile)
        return {"loss": loss.detach(), "squared_distance": distance.detach().mean()}

    def _descend(self, phase: str, loss: Tensor, progress: float) -> None:
        optimizer = self.optimizers[phase]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1.0 if progress < FALLS_AT[phase] else 0.1)
        update(optimizer, self.learning[phase], loss, self.average)

    def finish(self) -> None:
        """Normalise by what all workers saw.

        Raises:
            UnsuitableTilesError: no centre was averaged.
        """
        if not self.counts["centre_steps"]:
            raise UnsuitableTilesError("no step of this training was left to average the centre; give it more steps")
        self.average(running_statistics(self.encoder))

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """x_hat while the pretraining lasts; what the decoder draws of later codes is nothing."""
        if self.counts["centre_steps"]:
            return None
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat
