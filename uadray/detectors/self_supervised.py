"""An encoder that learns from normal tiles by itself, and a density of its features.

SimCLR: Chen et al. 2020, https://arxiv.org/abs/2002.05709 . VICReg: Bardes et al. 2022,
https://arxiv.org/abs/2105.04906 . Two views of each tile (`views/random_views.py`) are to be mapped alike,
those of other tiles not: without a label the encoder learns what tells tissues apart. In the last part of the training
it stands still, and a density is fitted on its features of whole tiles.

What it assumes: what is abnormal differs from normal tissue in what tells normal tissues from each other, or in
directions in which these do not differ at all (`residual`).

Different from the papers: small tiles, small batches and AdamW or SGD for LARS; views are those of a microscope, not of
photographs. With several workers negatives (SimCLR) and variances (VICReg) are those of the own worker's batch, as are
the statistics of batch norm; gradients are averaged. The projector is trained with the encoder, and not used after.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from uadray import config as configuration
from uadray.detectors import mahalanobis, neighbours, trainee
from uadray.detectors.detector import STAGES, Detector, Stage
from uadray.detectors.features import encoders
from uadray.detectors.features.encoders import SIDE_MULTIPLE, EncoderFeatures
from uadray.detectors.features.frozen import EncoderConfig
from uadray.detectors.trainee import Average, Losses
from uadray.detectors.views import random_views, view_losses
from uadray.detectors.views.random_views import view_of
from uadray.networks.outline import Networks

Density = Literal["residual", "mahalanobis", "mixture", "knn", "lof"]

DENSITY_STEPS = 4
"""At the least: some densities see tiles twice, first to whiten their features."""

MOMENTUM = 0.9
"""Of SGD (Chen et al. 2020, appendix B.9, take LARS, which has it as well)."""


class Config(configuration.Config):
    """An encoder, its training, and the density.

    Attributes:
        input_px: side of the tiles' centre that is seen.
        encoder: its sizes.
        objective: `simclr` or `vicreg`.
        views: how the two views of a tile differ.
        projector_layers: linear layers of the projector (paper of SimCLR: 2, of VICReg: 3).
        projector_width: of all but the last.
        projected: width of the last (SimCLR: 128, VICReg: 8192).
        temperature: of NT-Xent (paper: 0.5 for small images, 0.1 for ImageNet).
        invariance_weight: of VICReg's terms, lambda, (paper: 25)
        variance_weight: mu (paper: 25)
        covariance_weight: and nu (paper: 1).
        optimizer: `adamw`, or `sgd` with momentum 0.9.
        learning_rate: the greatest, reached after the warm-up; it falls to 0 along a half cosine.
        weight_decay: of weights, not of biases and norms.
        warm_up: share of the encoder's steps in which the rate rises.
        density_share: last share of all steps, in which the density is fitted.
        density: of features, see `uadray.detectors.mahalanobis` (`residual`, `mahalanobis`, `mixture`) and
            `uadray.detectors.neighbours` (`knn`, `lof`).
        components: principal ones, outside of which a `residual` is; to which others are whitened, None leaves features
            as they are; `mahalanobis` takes all.
        neighbours: of `knn` and `lof`.
        pooling: a density of `tile`s, or of `cells`, one a position of the deepest map.
        top_share: with `cells` a tile's score is the mean of this share of them, the highest; 1 is their mean.
    """

    kind: Literal["self_supervised"]
    input_px: int = Field(default=96, ge=16, le=1024)
    encoder: encoders.Config = encoders.Config()
    objective: Literal["simclr", "vicreg"] = "simclr"
    views: random_views.Config = random_views.Config(view_px=64)
    projector_layers: int = Field(default=2, ge=1, le=4)
    projector_width: int = Field(default=512, ge=8, le=8192)
    projected: int = Field(default=128, ge=8, le=8192)
    temperature: float = Field(default=0.2, ge=0.01, le=10)
    invariance_weight: float = Field(default=25.0, ge=0, le=1e6)
    variance_weight: float = Field(default=25.0, ge=0, le=1e6)
    covariance_weight: float = Field(default=1.0, ge=0, le=1e6)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    density_share: float = Field(default=0.1, gt=0, le=0.5)
    density: Density = "residual"
    components: int | None = Field(default=64, ge=1, le=4096)
    neighbours: int = Field(default=8, ge=1, le=256)
    pooling: encoders.Pooling = "tile"
    top_share: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _sides_fit(self) -> "Config":
        seen_px, view_px = self.input_px * self.encoder.enlarged, self.views.view_px or self.input_px
        if view_px > self.input_px:
            raise ValueError(f"views.view_px {view_px} is larger than input_px {self.input_px}")
        if seen_px > 2048:
            raise ValueError(f"the encoder would see {seen_px} px; at most 2048: lower input_px or encoder.enlarged")
        sides = (seen_px, view_px * self.encoder.enlarged)
        if self.components is None and self.density in ("residual", "mixture"):
            raise ValueError(f"density: {self.density} needs components")
        if self.encoder.network == "efficientnet_lite0" and any(side % SIDE_MULTIPLE for side in sides):
            raise ValueError(
                f"efficientnet_lite0 sees tiles of {sides[0]} px and views of {sides[1]}: both are to be multiples of "
                f"{SIDE_MULTIPLE}; change input_px, views.view_px or encoder.enlarged"
            )
        return self

    @property
    def least_steps(self) -> int:
        """Of a training: the density, too, passes through its phases."""
        return math.ceil(DENSITY_STEPS / self.density_share)


class Projector(nn.Module):
    """Linear layers with batch norm and ReLU between them; what the losses compare (Chen et al. 2020, section 2.1)."""

    def __init__(self, channels: int, *, layers: int, width: int, projected: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Linear(channels, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
            channels = width
        self.layers = nn.Sequential(*parts, nn.Linear(channels, projected, bias=False))

    def forward(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        """What the losses see of features."""
        z: Tensor = self.layers(features)
        return z


def density_config(config: Config) -> mahalanobis.Config | neighbours.Config:
    """The density, as a detector of features that stand still."""
    features = EncoderConfig(kind="encoder", encoder=config.encoder, pooling=config.pooling)
    if config.density in ("knn", "lof"):
        return neighbours.Config.model_validate({
            "kind": "neighbours", "input_px": config.input_px, "features": features, "components": config.components,
            "measure": config.density, "neighbours": config.neighbours, "top_share": config.top_share,
        })  # fmt: skip
    return mahalanobis.Config.model_validate({
        "kind": "mahalanobis", "input_px": config.input_px, "features": features, "density": config.density,
        "components": None if config.density == "mahalanobis" else config.components, "top_share": config.top_share,
    })  # fmt: skip


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """EfficientNet-Lite0, where the encoder starts from it."""
    return () if config.encoder.network == "resnet18" else (config.encoder.network,)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The encoder, its projector, and what is fitted on its features.

    Raises:
        InputError: the encoder has fewer channels than `components`.
    """
    features = EncoderFeatures(config.encoder, pretrained=pretrained, pooling=config.pooling)
    projector = Projector(
        features.deepest, layers=config.projector_layers, width=config.projector_width, projected=config.projected
    )
    density = density_config(config)
    fitted: Networks = _file_of(density).networks(density, pretrained=False)
    return fitted | {"features": features, "projector": projector}


def _file_of(fitted: mahalanobis.Config | neighbours.Config) -> Any:
    return mahalanobis if isinstance(fitted, mahalanobis.Config) else neighbours


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """That of the density; the projector is not asked for."""
    made: Detector = _file_of(density_config(config)).detector(
        density_config(config), networks, device=device, batch_tiles=batch_tiles, stages=stages
    )
    return made


class Trainee:
    """The encoder learns from pairs of views; then it stands still, and a density of its features is fitted."""

    phases: tuple[str, ...] = ("encoder", "density")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        features = networks["features"]
        if not isinstance(features, EncoderFeatures):
            raise TypeError(f"features: expected EncoderFeatures, found {type(features).__name__}")
        self.config, self.networks, self.average = config, networks, average
        self.features, self.projector = features, networks["projector"]
        self.learning = [p for part in (features, self.projector) for p in part.parameters()]
        self.density: trainee.Trainee = _file_of(density_config(config)).Trainee(
            density_config(config), networks, average=average
        )
        self.optimizers: dict[str, Optimizer] = {"encoder": _optimizer(config, self.learning)}
        self.counts = self.density.counts
        self.counts["density_steps"] = 0

    def phase(self, progress: float) -> str:
        """`density` for the last `density_share` of the training."""
        return "density" if progress >= 1 - self.config.density_share else "encoder"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the encoder learns by; the density has none."""
        return "learning_rate" if self.phase(progress) == "encoder" else ""

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step on x [N, 3, h, w] in [-1, 1]: of the encoder, or of the density."""
        share = 1 - self.config.density_share
        if self.phase(progress) == "encoder":
            return self.learn(x, progress / share)
        return self.see(x, (progress - share) / self.config.density_share)

    def learn(self, x: Tensor, progress: float) -> Losses:
        """Two views of each tile, their losses, and one step of the optimizer."""
        optimizer = self.optimizers["encoder"]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate_share(progress, warm_up=self.config.warm_up)
        views = view_of(x.repeat(2, 1, 1, 1), self.config.views, enlarged=self.config.encoder.enlarged)
        z, z_other = self.projector(self.features.of_views(views)).chunk(2)
        losses = losses_of(self.config, z, z_other)
        optimizer.zero_grad()
        losses["loss"].backward()
        self.average([p.grad for p in self.learning if p.grad is not None])
        optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()} | {"spread": spread(z)}

    def see(self, x: Tensor, progress: float) -> Losses:
        """Show tiles to the density as they will be scored, the encoder in evaluation."""
        if self.counts["density_steps"] == 0:
            self.average([*running_statistics(self.features), *running_statistics(self.projector)])
        self.features.eval()
        if self.counts["density_steps"] == 0:
            self.density.prepare(x)
        self.counts["density_steps"] += 1
        return self.density.step(x, progress)

    def finish(self) -> None:
        """Fit the density to all that it has seen."""
        self.features.eval()
        self.density.finish()

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None


def losses_of(config: Config, z: Float[Tensor, "n d"], z_other: Float[Tensor, "n d"]) -> dict[str, Tensor]:
    """By name; `loss` is the one that is descended."""
    if config.objective == "simclr":
        return {"loss": view_losses.nt_xent(z, z_other, temperature=config.temperature)}
    invariance = view_losses.invariance(z, z_other)
    variance = view_losses.variance(z) + view_losses.variance(z_other)
    covariance = view_losses.covariance(z) + view_losses.covariance(z_other)
    loss = (  # Bardes et al. 2022, eq. 6
        config.invariance_weight * invariance + config.variance_weight * variance
        + config.covariance_weight * covariance
    )  # fmt: skip
    return {"loss": loss, "invariance": invariance, "variance": variance, "covariance": covariance}


@torch.no_grad()
def spread(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Deviation of the directions of z, times the root of d: 1 where they lie evenly, 0 where all are the same."""
    directions = nn.functional.normalize(z.float(), dim=1)
    deviation: Tensor = directions.std(0).mean() * math.sqrt(z.shape[1])
    return deviation


def rate_share(progress: float, *, warm_up: float) -> float:
    """The learning rate over its greatest: it rises evenly, then falls to 0 along a half cosine.

    >>> [round(rate_share(progress, warm_up=0.2), 2) for progress in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm_up) / (1 - warm_up))))


def _optimizer(config: Config, parameters: list[nn.Parameter]) -> Optimizer:
    """Biases and norms, which have one dimension, do not decay."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=MOMENTUM)
    return AdamW(groups, lr=config.learning_rate)


def running_statistics(network: nn.Module) -> list[Tensor]:
    """The running statistics of batch norm, which each worker has of its own tiles."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    return [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
