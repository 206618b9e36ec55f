"""Mahalanobis: how probable a tile's features are under Gaussians of normal ones. https://arxiv.org/abs/2203.10807 .

Three densities. `mahalanobis`: one Gaussian, its covariance shrunk (Ledoit and Wolf 2004, "A well-conditioned estimator
for large-dimensional covariance matrices", https://doi.org/10.1016/S0047-259X(03)00096-4). `residual`: the length of
what lies outside the principal subspace (Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching", the
link above, section 4.1). `mixture`: several Gaussians in the space of whitened principal components.

What it assumes: **what is abnormal has features that are improbable among those of normal tissue.** Normal tissue is
broader than many tumours: rare normal tissue (fat, blood) is flagged first. The residual asks another question: whether
the features have a part that normal tissue does not have at all.

Different from ViM: there is no classifier. Its virtual logit is the residual times a constant, set against the logits
of the classes; without them the order of tiles is that of the residual alone, and the origin is the mean of the
features, not the point at which all logits are equal.
"""

from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.densities.mixture import Mixture
from uadray.detectors.densities.moments import Moments, Projection, complement, whitening
from uadray.detectors.densities.projected import PROJECTED_FROM, ProjectedFeatures, SeenFeatures
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.features.frozen import FeatureConfig, borrowed, build_features, channels_of, mpp_of
from uadray.detectors.latents import Latent
from uadray.detectors.scores import mean_of_highest
from uadray.detectors.trainee import Average, Losses
from uadray.errors import InputError
from uadray.networks.outline import Networks


class Config(configuration.Config):
    """A density of normal features.

    Attributes:
        input_px: side of what is looked at.
        features: of which, see `uadray.detectors.features.frozen`.
        density: see above.
        components: of `residual` the principal ones, outside of which is looked; of `mixture` those that are looked at,
            whitened; none of `mahalanobis`, which looks at all.
        gaussians: of `mixture`.
        candidates: vectors that `mixture` is fitted to, a random sample of all that are seen.
        least_variance: added to the variances of each Gaussian of `mixture`; whitened components have 1.
        top_share: a tile's score is the mean of this share of its cells, the highest; 0: the highest alone.
    """

    kind: Literal["mahalanobis"]
    input_px: int = Field(default=96, ge=16, le=1024)
    features: FeatureConfig
    density: Literal["mahalanobis", "residual", "mixture"] = "mahalanobis"
    components: int | None = Field(default=None, ge=1, le=4096)
    gaussians: int = Field(default=8, ge=1, le=256)
    candidates: int = Field(default=10_000, ge=2, le=200_000)
    least_variance: float = Field(default=1e-3, ge=0, le=10)
    top_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _components_where_needed(self) -> "Config":
        if (self.components is None) != (self.density == "mahalanobis"):
            needs = "looks at all components" if self.components else "needs components"
            raise ValueError(f"density: {self.density} {needs}")
        return self

    @property
    def mpp(self) -> float | None:
        """That tiles must have."""
        return mpp_of(self.features)

    @property
    def least_steps(self) -> int:
        """Of a training: so many pass through every phase."""
        return 2 if self.density == "mixture" else 1

    def projected(self, channels: int) -> int:
        """Numbers that a cell's features are projected to.

        Raises:
            InputError: the features have too few channels.
        """
        components = self.components or channels
        if components > channels - (self.density == "residual"):
            raise InputError(f"{channels} channels of features: components {components} is too many")
        return channels - components if self.density == "residual" else components


class DensityScore:
    """Projected features of cells -> how improbable they are: the stage `score`."""

    def __init__(self, config: Config, mixture: nn.Module | None) -> None:
        self.config, self.mixture = config, mixture

    def __call__(
        self, x: Tensor, x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map has every cell; the score is the mean of the highest of them."""
        if not isinstance(z, Tensor):
            raise TypeError("the features of cells are one tensor")
        cells = self.of_cells(z)
        return mean_of_highest(cells, self.config.top_share), cells

    def of_cells(self, z: Float[Tensor, "n d h w"]) -> Float[Tensor, "n h w"]:
        """The Mahalanobis distance over the root of the dimensions, so that it is about 1 among normals.

        Of a residual its length, likewise; of a mixture -log density over the dimensions.
        """
        match self.config.density:
            case "mahalanobis":
                cells: Tensor = z.square().mean(1).sqrt()
            case "residual":
                cells = z.square().sum(1).sqrt()
            case "mixture":
                n, d, height, width = z.shape
                log_density = cast(Mixture, self.mixture)(z.permute(0, 2, 3, 1).flatten(0, 2))
                cells = (-log_density / d).view(n, height, width).to(z.dtype)
        return cells


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """Those of the features."""
    return borrowed(config.features)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The features, their sums, what projects them, and the mixture if there is one.

    Raises:
        InputError: the backbone has no such layer, or too few channels.
    """
    features = build_features(config.features, pretrained=pretrained)
    channels = channels_of(features)
    projected = config.projected(channels)
    fitted: Networks = {"moments": Moments(channels), "projection": Projection(channels, projected)}
    if config.density == "mixture":
        fitted["mixture"] = Mixture(config.gaussians, projected, rows=config.candidates)
    return {"features": features} | fitted


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Features, no picture, a density."""
    return assemble(
        networks,
        mapping=lambda placed: ProjectedFeatures(placed, is_projected=True),
        reconstruct=no_picture,
        score=lambda placed: DensityScore(config, placed["mixture"] if config.density == "mixture" else None),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Sees tiles: sums of their features, and of a mixture then a sample of them."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks = config, networks
        self.mixture = cast(Mixture | None, networks.get("mixture"))
        self.phases: tuple[str, ...] = ("moments",) if self.mixture is None else ("moments", "sample")
        self.seen = SeenFeatures(networks, average=average)
        self.optimizers: dict[str, Optimizer] = {}
        self.counts: dict[str, int] = {"projected": 0}

    def phase(self, progress: float) -> str:
        """Of a mixture sums in the first half of the steps, then a sample."""
        return self.phases[0] if progress < PROJECTED_FROM else self.phases[-1]

    def learning_rate(self, progress: float) -> str:
        """There is none."""
        return ""

    def prepare(self, x: Tensor) -> None:
        """Place the origin of the sums near the mean of the features of x [N, 3, h, w] and of all workers."""
        self.seen.place(x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """See normal tiles x [N, 3, h, w] in [-1, 1] once."""
        if self.mixture is None or self.phase(progress) == "moments":
            return self.seen.sum(x)
        if not self.counts["projected"]:
            self.seen.project(self.matrix)
            self.counts["projected"] = 1
        return self.seen.keep(x, self.mixture.reservoir)

    def matrix(self, moments: Moments) -> Float[Tensor, "d c"]:
        """What projects features, told from their sums.

        Raises:
            UnsuitableTilesError: they vary in too few directions.
        """
        match self.config.density:
            case "mahalanobis":
                covariance = moments.shrunk_covariance()
                return whitening(covariance, len(covariance))
            case "residual":
                return complement(moments.covariance(), self.config.components or 0)
            case "mixture":
                return whitening(moments.covariance(), self.config.components or 0)

    @torch.no_grad()
    def finish(self) -> None:
        """Fit the density to what was seen; of several workers, the mixture of the first is kept.

        Raises:
            UnsuitableTilesError: what was seen does not suffice.
        """
        if self.mixture is None:
            self.seen.project(self.matrix)
        else:
            self.mixture.fit(least_variance=self.config.least_variance)

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None
