"""Neighbours: how far a tile's features lie from those of normal tiles. https://arxiv.org/abs/2106.08265 .

Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection" (PatchCore; `measure: knn`), and Breunig et
al. 2000, "LOF: Identifying Density-Based Local Outliers", https://doi.org/10.1145/342009.335388 (`measure: lof`).

What it assumes: **what is abnormal looks, to the features, unlike all normal tissue.** Normal tissue is broad: rare
normal tissue (fat, blood, follicles) lies far from the rest as well, and is flagged first. The local outlier factor
compares a tile with how densely its own neighbours lie, and so forgives more of it.

As in PatchCore: features of cells, a greedy coreset chosen in a random projection, the distance to the nearest row, the
highest cell's as the tile's score, and (`reweigh`) its weight by the neighbours of that row. Different: candidates are
a bounded random sample of all cells seen; no neighbourhoods are averaged before; features may be whitened to a few
principal components, which the local outlier factor needs: distances in hundreds of dimensions are all alike.
"""

from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.densities.bank import Bank, nearest, outlier_factor
from uadray.detectors.densities.moments import Moments, Projection, whitening
from uadray.detectors.densities.projected import PROJECTED_FROM, ProjectedFeatures, SeenFeatures
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.features.frozen import FeatureConfig, borrowed, build_features, channels_of, mpp_of
from uadray.detectors.latents import Latent
from uadray.detectors.scores import mean_of_highest
from uadray.detectors.trainee import Average, Losses
from uadray.networks.outline import Networks


class Config(configuration.Config):
    """Distances to normal features.

    Attributes:
        input_px: side of what is looked at.
        features: what is compared, see `uadray.detectors.features.frozen`.
        components: features are whitened to so many principal components; None: as they are.
        measure: `knn`, the mean distance to the nearest rows, or `lof`, the local outlier factor.
        neighbours: so many rows are compared with.
        candidates: vectors that are kept while tiles are seen, a random sample of all.
        bank: of them so many remain, as a coreset; None: all. A coreset is no sample: it says nothing of densities.
        top_share: a tile's score is the mean of this share of its cells, the highest; 0: the highest alone.
        reweigh: a tile's score is weighted by how its highest cell's nearest row lies among its neighbours (PatchCore,
            equation 7).
    """

    kind: Literal["neighbours"]
    input_px: int = Field(default=96, ge=16, le=1024)
    features: FeatureConfig
    components: int | None = Field(default=None, ge=1, le=4096)
    measure: Literal["knn", "lof"] = "knn"
    neighbours: int = Field(default=1, ge=1, le=256)
    candidates: int = Field(default=10_000, ge=2, le=200_000)
    bank: int | None = Field(default=None, ge=2, le=50_000)
    top_share: float = Field(default=0.0, ge=0, le=1)
    reweigh: bool = False

    @model_validator(mode="after")
    def _rows_suffice(self) -> "Config":
        if self.bank is not None and self.measure == "lof":
            raise ValueError("a local outlier factor needs a sample of all rows: leave bank out, lower candidates")
        if self.reweigh and self.measure == "lof":
            raise ValueError("reweigh is for measure: knn")
        if self.least_rows > (self.bank or self.candidates):
            raise ValueError(f"{self.least_rows} rows are compared with; candidates and bank must not be less")
        return self

    @property
    def mpp(self) -> float | None:
        """That tiles must have."""
        return mpp_of(self.features)

    @property
    def least_rows(self) -> int:
        """Of the bank."""
        return max(self.neighbours + 1, REWEIGHED_BY if self.reweigh else 0)

    @property
    def least_steps(self) -> int:
        """Of a training: so many pass through every phase."""
        return 2


REWEIGHED_BY = 9
"""Rows whose distances a weight is told from: b in PatchCore; 9 as anomalib has it."""


class NeighbourScore:
    """Vectors of cells -> their distances to the bank: the stage `score`."""

    def __init__(self, config: Config, bank: nn.Module) -> None:
        self.config, self.bank = config, cast(Bank, bank)
        self.rows = self.bank.rows(config.least_rows)

    def __call__(
        self, x: Tensor, x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map has every cell; the score is told from the highest of them."""
        if not isinstance(z, Tensor):
            raise TypeError("the features of cells are one tensor")
        n, _, height, width = z.shape
        queries = z.permute(0, 2, 3, 1).flatten(0, 2).float()
        distances, indices = nearest(queries, self.rows, self.config.neighbours)
        if self.config.measure == "lof":
            cells = outlier_factor(distances, self.bank.reach[indices], self.bank.density[indices])
        else:
            cells = distances.mean(1)
        cells = cells.view(n, height, width)
        score = mean_of_highest(cells, self.config.top_share)
        if self.config.reweigh:
            highest = cells.flatten(1).argmax(1) + torch.arange(n, device=z.device) * height * width
            score = score * weights(queries[highest], self.rows, indices[highest, 0])
        return score, cells


def weights(
    queries: Float[Tensor, "n d"], rows: Float[Tensor, "m d"], nearest_row: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """1 - exp |q - r| / sum exp |q - r'| over the rows r' around r, q's nearest (PatchCore, equation 7).

    The sum has r itself.
    """
    _, around = nearest(rows[nearest_row], rows, REWEIGHED_BY)
    distances = (rows[around] - queries[:, None]).square().sum(2).sqrt()
    own = (rows[nearest_row] - queries).square().sum(1).sqrt()
    return -torch.expm1(own - distances.logsumexp(1))


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """Those of the features."""
    return borrowed(config.features)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The features, what projects them if they are projected, and the empty bank.

    Raises:
        InputError: the backbone has no such layer.
    """
    features = build_features(config.features, pretrained=pretrained)
    channels = channels_of(features)
    bank = Bank(config.candidates, config.components or channels)
    if config.components is None:
        return {"features": features, "bank": bank}
    fitted: Networks = {"moments": Moments(channels), "projection": Projection(channels, config.components)}
    return {"features": features, "bank": bank} | fitted


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Features, no picture, distances."""
    return assemble(
        networks,
        mapping=lambda placed: ProjectedFeatures(placed, is_projected=config.components is not None),
        reconstruct=no_picture,
        score=lambda placed: NeighbourScore(config, placed["bank"]),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Sees tiles: sums of their features first, where they are whitened, then a sample of them."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks = config, networks
        self.bank = cast(Bank, networks["bank"])
        self.phases: tuple[str, ...] = ("bank",) if config.components is None else ("moments", "bank")
        self.seen = SeenFeatures(networks, average=average)
        self.optimizers: dict[str, Optimizer] = {}
        self.counts: dict[str, int] = {"projected": 0}

    def phase(self, progress: float) -> str:
        """Sums in the first half of the steps, then the bank."""
        return self.phases[0] if progress < PROJECTED_FROM else "bank"

    def learning_rate(self, progress: float) -> str:
        """There is none."""
        return ""

    def prepare(self, x: Tensor) -> None:
        """Place the origin of the sums near the mean of the features of x [N, 3, h, w] and of all workers."""
        self.seen.place(x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """See normal tiles x [N, 3, h, w] in [-1, 1] once."""
        if self.phase(progress) == "moments":
            return self.seen.sum(x)
        if self.config.components is not None and not self.counts["projected"]:
            self.seen.project(lambda moments: whitening(moments.covariance(), self.config.components or 1))
            self.counts["projected"] = 1
        return self.seen.keep(x, self.bank.reservoir)

    @torch.no_grad()
    def finish(self) -> None:
        """Choose the bank among the candidates; of several workers, that of the first is kept.

        Raises:
            UnsuitableTilesError: too few vectors were seen.
        """
        self.bank.fit(size=self.config.bank or self.config.candidates, neighbours=self.config.least_rows - 1)

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None
