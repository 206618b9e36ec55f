"""Enlarged nuclei: a linear head on frozen features, told from normal tiles whose nuclei were enlarged.

Kin of foreign patch interpolation (Tan et al. 2020, https://arxiv.org/abs/2011.04197) and CutPaste (Li et al. 2021,
https://arxiv.org/abs/2104.04015): the anomalies are synthetic, made of normal tiles (see `views.enlarged`).

What it assumes: **nuclei grow, become paler, and stand in pink surroundings.** That is carcinoma in lymph nodes, not
anomalies in general. What does not enlarge nuclei is not found.

Different from those papers: the network is frozen, and the head has no solver. Features of cells of 8 um are seen once;
the head's weights follow from their means and variances, and do not respond to the sharpness, thickness and tint in
which scanners and laboratories differ (`uadray.detectors.cell_head`).

A density of normal features does not do: normal tissue (fat, blood, stroma) is broader than tumour, and rare normal
tissue is flagged first.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.cell_head import Head, separation, sums_of
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.latents import Latent
from uadray.detectors.trainee import Average, UnsuitableTilesError
from uadray.detectors.views.enlarged import Kind, Views, make_views
from uadray.detectors.views.scanners import CHANGES, PIXEL_SHARPNESS, blurred, scanner_pair
from uadray.networks.backbones import build_backbone
from uadray.networks.outline import Networks

LayerName = Annotated[str, StringConstraints(max_length=40)]

CELL_PX = 16
"""Side of a cell in the pixels that the backbone sees: EfficientNet-Lite0 halves them four times up to `block10`."""

SIDE_MULTIPLE = 32
"""Of the side that the backbone sees: its paddings are TensorFlow's then (`EfficientNetLite0`)."""

SHARPNESS_UM = 0.972
"""Sharpness to which a tile is blurred before it is scored: the middle of what views have."""

SMOOTHED_CELLS, TOP_SHARE = 4, 0.1
"""A score is told from the means of all squares of so many cells, and from the highest share of them."""

OUTSIDE, INSIDE = 0.1, 0.8
"""A cell of a pasted view is normal where less of it is enlarged, and enlarged where more is."""

SCANNERS_FROM, SCALE_FROM = 0.75, 0.9
"""Shares of the steps after which views are not made any more: the directions of scanners are told from real tiles,
then scores of normal tiles are counted, whose deviation is the unit of the scores."""


LEAST_STEPS = 18
"""With fewer, no score would be counted, and a head that no tile has taught would go unnoticed."""


class Config(configuration.Config):
    """Enlarged nuclei.

    Attributes:
        input_px: side of the tiles' centre that is seen.
        mpp: of the tiles, um/px; the same as `tiles.mpp`.
        backbone: the frozen network.
        layers: its layers, by the names of `uadray.networks.backbones`.
        backbone_mpp: what the backbone sees, um/px: tiles are enlarged to it (twice, at 0.972 um/px).
        zoom_least: nuclei are enlarged so much at the least,
        zoom_most: and so much at the most.
        heads: so many are fitted, each to views of its own, and averaged.
    """

    kind: Literal["enlarged_nuclei"]
    input_px: int = Field(default=96, ge=16, le=2048)
    mpp: float = Field(default=0.972, ge=0.1, le=1.5)
    backbone: Literal["efficientnet_lite0", "vgg16", "alexnet"] = "efficientnet_lite0"
    layers: tuple[LayerName, ...] = Field(default=("block5", "block10"), min_length=1, max_length=32)
    backbone_mpp: float = Field(default=0.486, ge=0.1, le=4)
    zoom_least: float = Field(default=1.4, ge=1, le=4)
    zoom_most: float = Field(default=2.2, ge=1, le=4)
    heads: int = Field(default=3, ge=1, le=16)

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        if self.zoom_least > self.zoom_most:
            raise ValueError(f"zoom_least {self.zoom_least} is above zoom_most {self.zoom_most}")
        if not 4 * CELL_PX <= self.side_px <= 2048:
            seen = f"{self.input_px} px of {self.mpp} um are {self.side_px} px of {self.backbone_mpp} um"
            raise ValueError(f"{seen}; the backbone sees {4 * CELL_PX} to 2048 px")
        return self

    @property
    def least_steps(self) -> int:
        """Of a training: so many pass through every phase, and each of `CHANGES` is seen."""
        return LEAST_STEPS

    @property
    def side_px(self) -> int:
        """Side of what the backbone sees."""
        return max(1, round(self.input_px * self.mpp / self.backbone_mpp / SIDE_MULTIPLE)) * SIDE_MULTIPLE


@runtime_checkable
class Resolution(Protocol):
    """Of a configuration, how large tiles are seen.

    Attributes:
        mpp: of the tiles, um/px.
        side_px: of what the backbone sees.
    """

    @property
    def mpp(self) -> float: ...  # noqa: D102

    @property
    def side_px(self) -> int: ...  # noqa: D102


class CellFeatures:
    """Tiles -> features of their cells: the backbone's maps, resized to one grid of cells. The stage `map`."""

    def __init__(self, config: Resolution, backbone: nn.Module) -> None:
        self.config, self.backbone = config, backbone

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Tensor:
        """[N, C, h', w'] of tiles in [-1, 1], blurred to the sharpness of the views."""
        sigma_um = max(0.0, SHARPNESS_UM**2 - (PIXEL_SHARPNESS * self.config.mpp) ** 2) ** 0.5
        return self.of_views(blurred(x, torch.full((len(x),), sigma_um / self.config.mpp, device=x.device)))

    def of_views(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """[N, C, h', w'] of views, which have their sharpness."""
        side = self.config.side_px
        if x.shape[-1] != side:
            is_finer = x.shape[-1] > side
            x = F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False, antialias=is_finer)
        return torch.cat([on_grid(f, side // CELL_PX) for f in self.backbone(x.clamp(-1, 1))], 1)


def on_grid(features: Float[Tensor, "n c h w"], cells: int) -> Float[Tensor, "n c h2 w2"]:
    """A map of features on a grid of cells: the mean of what lies in each."""
    return features if features.shape[-1] == cells else F.adaptive_avg_pool2d(features, cells)


class CellScore:
    """Features of cells -> a tile's score, and its map: the stage `score`."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __call__(
        self, x: Tensor, x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The score is the mean of the smoothed cells plus the mean of the highest of them; the map has every cell."""
        if not isinstance(z, Tensor):
            raise TypeError("the features of cells are one tensor")
        cells = self.head(z)
        return tile_scores(cells), cells


def tile_scores(cells: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """Mean plus mean of the highest, of the means over squares of `SMOOTHED_CELLS`; no side has fewer cells."""
    smooth = F.avg_pool2d(cells[:, None], SMOOTHED_CELLS, stride=1).flatten(1)
    count = max(1, round(TOP_SHARE * smooth.shape[1]))
    return smooth.mean(1) + smooth.topk(count, 1).values.mean(1)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """The frozen backbone."""
    return (config.backbone,)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The frozen backbone, and an empty head.

    Raises:
        InputError: the backbone has no such layer.
    """
    backbone = build_backbone(config.backbone, config.layers, pretrained=pretrained)
    return {"backbone": backbone, "head": Head(sum(backbone.channels), config.heads)}


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Features of cells, no picture, a linear head."""
    return assemble(
        networks,
        mapping=lambda placed: CellFeatures(config, placed["backbone"]),
        reconstruct=no_picture,
        score=lambda placed: CellScore(placed["head"]),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages, has_cells=True,
    )  # fmt: skip


class Trainee:
    """Sums over cells of views, then the scale of the scores: nothing is learned by gradients."""

    phases: tuple[str, ...] = ("head", "scanners", "scale")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        head = networks["head"]
        if not isinstance(head, Head):
            raise TypeError(f"head: expected Head, found {type(head).__name__}")
        self.config, self.networks, self.average, self.head = config, networks, average, head
        self.features = CellFeatures(config, networks["backbone"])
        self.score = CellScore(head)
        self.optimizers: dict[str, Optimizer] = {}
        self.counts: dict[str, int] = {"steps": 0}

    def phase(self, progress: float) -> str:
        """The head from views, the directions of scanners, the scale of the scores."""
        return "head" if progress < SCANNERS_FROM else "scanners" if progress < SCALE_FROM else "scale"

    def learning_rate(self, progress: float) -> str:
        """There is none."""
        return ""

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    @torch.no_grad()
    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """See normal tiles x [N, 3, h, w] in [-1, 1] once."""
        match self.phase(progress):
            case "head":
                return self.see_views(x)
            case "scanners":
                return self.see_scanners(x)
            case _:
                return self.see_scores(x)

    def see_views(self, x: Tensor) -> dict[str, float]:
        """Count the cells of views of the tiles."""
        head = self.counts["steps"] % self.config.heads
        self.counts["steps"] += 1
        views = make_views(x, mpp=self.config.mpp, zoom=(self.config.zoom_least, self.config.zoom_most))
        z = self.features.of_views(views.x)
        normal, enlarged = cell_labels(views, z.shape[-1])
        cells = z.permute(0, 2, 3, 1).flatten(0, 2)
        sums = [sums_of(cells, normal.flatten()), sums_of(cells, enlarged.flatten())]
        self.average(sums)
        self.head.normals[head] += sums[0]
        self.head.enlarged[head] += sums[1]
        self.head.fit()
        return {"separation": separation(sums[0], sums[1], self.head.weight)}

    def see_scanners(self, x: Tensor) -> dict[str, float]:
        """Count what one of `CHANGES` does to the features of tiles."""
        number = self.counts["steps"] % len(CHANGES)
        self.counts["steps"] += 1
        one, other = scanner_pair(x, CHANGES[number], mpp=self.config.mpp)
        one, other = (self.features(tiles).mean((2, 3)).double() for tiles in (one, other))
        sums = torch.cat([one.new_tensor([len(x)]), (one - other).sum(0)])
        self.average([sums])
        self.head.changes[number] += sums
        self.head.fit()
        return {CHANGES[number]: float((one - other).mean(0).norm() / other.mean(0).norm())}

    def see_scores(self, x: Tensor) -> dict[str, float]:
        """Count the scores of normal tiles, and scale the head by all that have been counted."""
        z = self.features(x)
        self.head.fit()
        if not self.head.weight.any():
            raise UnsuitableTilesError(
                "among the tiles seen were none rich in nuclei, or none of pink tissue, of which this detector makes "
                "its anomalies; it is for H&E of tissue that has both (lymph nodes): give more slides, or train another"
            )
        scores = self.score(x, None, z)[0].double()
        sums = torch.stack([torch.ones_like(scores).sum(), scores.sum(), scores.square().sum()])
        self.average([sums])
        self.head.scores += sums
        self.head.scale()
        return {"deviation": float(self.score(x, None, z)[0].std())}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None


def cell_labels(views: Views, cells: int) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Which cells of views count as normal, and which as enlarged; 1 or 0, [N, cells, cells] each.

    Around what was pasted into any tile the surroundings are not counted: they have been counted as normal views.
    """
    share = F.adaptive_avg_pool2d(views.mask, cells)[:, 0]
    counted: dict[Kind, float] = {"pasted": 0.0}
    has_normals = torch.tensor([counted.get(kind, 1.0) for kind in views.kinds], device=share.device)
    return (share < OUTSIDE).float() * has_normals[:, None, None], (share > INSIDE).float()
