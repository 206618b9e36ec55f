"""Tuned nuclei: a network whose last blocks learn to tell cells of normal tiles from those with enlarged nuclei.

The task is that of `uadray.detectors.enlarged_nuclei`, after foreign patch interpolation (Tan et al. 2020,
https://arxiv.org/abs/2011.04197) and CutPaste (Li et al. 2021, https://arxiv.org/abs/2104.04015): the anomalies are
made of normal tiles. There a closed form solves it on frozen features; here gradients do, and features follow.

What it assumes: **nuclei grow, become paler, and stand in pink surroundings**, and what a network learns of such nuclei
when they are made holds for those that are not. A network that may change can learn the making instead.

Different from those papers: EfficientNet-Lite0 starts from ImageNet, and learns in its last blocks alone
(`train_blocks`), by cells of 8 um. Its batch norms keep the statistics of ImageNet, so that a tile's score does not
depend on the batches of the training; their factors and shifts learn.
"""

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.enlarged_nuclei import CELL_PX, SIDE_MULTIPLE, CellFeatures, CellScore, cell_labels
from uadray.detectors.trainee import Average, UnsuitableTilesError
from uadray.detectors.views.enlarged import make_views
from uadray.networks import weights
from uadray.networks.backbones import build_backbone, inverted_bottleneck, layer_names
from uadray.networks.outline import Networks

BACKBONE = "efficientnet_lite0"

LayerName = Annotated[str, StringConstraints(max_length=40)]

SCALE_FROM = 0.9
"""Share of the steps after which nothing is learned any more: scores of normal tiles are counted."""

FIT_TILES = 32
"""Tiles whose features are held at once."""


class Config(configuration.Config):
    """Tuned nuclei.

    Attributes:
        input_px: side of the tiles' centre that is seen.
        mpp: of the tiles, um/px; the same as `tiles.mpp`.
        layers: of EfficientNet-Lite0, whose maps a cell is told from.
        train_blocks: so many blocks learn, counted from the deepest of the layers; 0 leaves the classifier alone.
        backbone_mpp: what the network sees, um/px: tiles are enlarged to it (twice, at 0.972 um/px).
        zoom_least: nuclei are enlarged so much at the least,
        zoom_most: and so much at the most.
        learning_rate: of AdamW for the classifier, falling to 0 along a half cosine.
        blocks_rate: the blocks learn at this share of it.
        weight_decay: of AdamW.
    """

    kind: Literal["tuned_nuclei"]
    input_px: int = Field(default=96, ge=16, le=2048)
    mpp: float = Field(default=0.972, ge=0.1, le=1.5)
    layers: tuple[LayerName, ...] = Field(default=("block5", "block10"), min_length=1, max_length=16)
    train_blocks: int = Field(default=5, ge=0, le=15)
    backbone_mpp: float = Field(default=0.486, ge=0.1, le=4)
    zoom_least: float = Field(default=1.4, ge=1, le=4)
    zoom_most: float = Field(default=2.2, ge=1, le=4)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    blocks_rate: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        if self.zoom_least > self.zoom_most:
            raise ValueError(f"zoom_least {self.zoom_least} is above zoom_most {self.zoom_most}")
        if not 4 * CELL_PX <= self.side_px <= 2048:
            raise ValueError(f"the network sees 64 to 2048 px, not {self.side_px} (input_px times mpp / backbone_mpp)")
        known = layer_names(BACKBONE)
        if unknown := [layer for layer in self.layers if layer not in known]:
            raise ValueError(f"{BACKBONE} has no layer {unknown[0]!r}; it has {known[0]} to {known[-1]}")
        if self.first_trained < 1:
            raise ValueError(f"train_blocks {self.train_blocks}: the deepest layer has fewer before it")
        return self

    @property
    def least_steps(self) -> int:
        """Of a training: one step counts scores then."""
        return 10

    @property
    def side_px(self) -> int:
        """Side of what the network sees."""
        return max(1, round(self.input_px * self.mpp / self.backbone_mpp / SIDE_MULTIPLE)) * SIDE_MULTIPLE

    @property
    def first_trained(self) -> int:
        """Number of the first block that learns; one above the deepest layer where none does."""
        return max(map(layer_names(BACKBONE).index, self.layers)) + 1 - self.train_blocks

    @property
    def frozen_layers(self) -> tuple[str, ...]:
        """What the frozen part gives: its own of the layers, and last what the blocks that learn begin with."""
        known = layer_names(BACKBONE)
        own = [layer for layer in self.layers if known.index(layer) < self.first_trained - 1]
        return (*dict.fromkeys(own), known[self.first_trained - 1])


class TunedBlocks(nn.Module):
    """The blocks of EfficientNet-Lite0 that learn, under their published numbers.

    Attributes:
        channels: of the map of each, by the layer's name.
    """

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        network: Any = EfficientNet.from_name("efficientnet-lite0")
        self.blocks = nn.ModuleDict({str(i): network._blocks[i] for i in range(first, last + 1)})
        self.channels = {f"block{i}": int(network._blocks[i]._bn2.num_features) for i in range(first, last + 1)}

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """The map of each block, of the map before the first."""
        maps = []
        for block in self.blocks.values():
            x = inverted_bottleneck(x, block)
            maps.append(x)
        return maps

    def start(self, state: dict[str, Tensor]) -> None:
        """Take the published weights."""
        own = self.state_dict()
        self.load_state_dict({key: state["_" + key] for key in own})


class Trunk(nn.Module):
    """X -> the maps of `Config.layers`, out of what stands still and what learns."""

    def __init__(self, config: Config, backbone: nn.Module, tuned: nn.Module) -> None:
        super().__init__()
        self.config, self.backbone, self.tuned = config, backbone, tuned

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """X in [-1, 1]."""
        frozen = dict(zip(self.config.frozen_layers, self.backbone(x), strict=True))
        start = layer_names(BACKBONE)[self.config.first_trained :]
        learned = dict(zip(start, self.tuned(frozen[self.config.frozen_layers[-1]]), strict=False))
        return [(frozen | learned)[layer] for layer in self.config.layers]


class Classifier(nn.Module):
    """Features of a cell, each less its mean and over its deviation on normal tiles -> how enlarged its nuclei look.

    Attributes:
        scores: count, sum and sum of squares of scores of normal tiles.
        enlarged: cells with enlarged nuclei that were seen.
        scale: deviation of those scores, and half their mean: a score is the sum of two means of cells.
    """

    mean: Tensor
    deviation: Tensor
    scores: Tensor
    enlarged: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))
        self.register_buffer("scores", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("enlarged", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.tensor([1.0, 0.0]))

    def forward(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
        """In units of the deviation of normal tiles' scores, once they have been counted."""
        return (self.logits(z) - self.scale[1]) / self.scale[0]

    def logits(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
        """Logarithm of the odds that the nuclei of a cell are enlarged."""
        logits: Tensor = self.linear((z - self.mean) / self.deviation)
        return logits[:, 0]

    def fit_scale(self) -> None:
        """Set the scale by the scores that have been counted, so that normal tiles have mean 0 and deviation 1."""
        count, total, squares = self.scores
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(1e-24).sqrt()
        self.scale.copy_(torch.stack([deviation, mean / 2]))


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """The network that it starts from."""
    return (BACKBONE,)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """What stands still, what learns, and an empty classifier.

    Raises:
        InputError: the backbone has no such layer.
    """
    backbone = build_backbone(BACKBONE, config.frozen_layers, pretrained=pretrained)
    tuned = TunedBlocks(config.first_trained, config.first_trained + config.train_blocks - 1)
    if pretrained:
        tuned.start(weights.load(BACKBONE))
    channels = dict(zip(config.frozen_layers, backbone.channels, strict=True))
    channels |= tuned.channels
    return {"backbone": backbone, "tuned": tuned, "classifier": Classifier(sum(channels[x] for x in config.layers))}


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Features of cells, no picture, a classifier of cells."""
    return assemble(
        networks,
        mapping=lambda placed: CellFeatures(config, Trunk(config, placed["backbone"], placed["tuned"])),
        reconstruct=no_picture,
        score=lambda placed: CellScore(placed["classifier"]),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages, has_cells=True,
    )  # fmt: skip


class Trainee:
    """Binary cross-entropy on cells, both kinds weighing the same; AdamW; then the scale of the scores."""

    phases: tuple[str, ...] = ("tune", "scale")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        classifier = networks["classifier"]
        if not isinstance(classifier, Classifier):
            raise TypeError(f"classifier: expected Classifier, found {type(classifier).__name__}")
        self.config, self.networks, self.average, self.classifier = config, networks, average, classifier
        self.features = CellFeatures(config, Trunk(config, networks["backbone"], networks["tuned"]))
        self.score = CellScore(classifier)
        learning = {"classifier": config.learning_rate, "tuned": config.learning_rate * config.blocks_rate}
        groups = {name: list(networks[name].parameters()) for name in learning if list(networks[name].parameters())}
        self.rates = [learning[name] for name in groups]
        self.parameters = [p for group in groups.values() for p in group]
        adamw = AdamW([{"params": group} for group in groups.values()], weight_decay=config.weight_decay)
        self.optimizers: dict[str, Optimizer] = {"adamw": adamw}
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """Learning from views, then the scale of the scores."""
        return "tune" if progress < SCALE_FROM else "scale"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that all learn by."""
        return "learning_rate" if progress < SCALE_FROM else ""

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Take mean and deviation of the features of normal cells: the classifier learns on one scale."""
        parts = [self.features(part) for part in x.split(FIT_TILES)]
        deviation, mean = torch.std_mean(torch.cat(parts), (0, 2, 3), keepdim=True)
        self.classifier.mean.copy_(mean)
        self.classifier.deviation.copy_(deviation.clamp_min(1e-6))

    def step(self, x: Tensor, progress: float) -> dict[str, float | Tensor]:
        """See normal tiles x [N, 3, h, w] in [-1, 1] once."""
        return self.tune(x, progress) if self.phase(progress) == "tune" else self.see_scores(x)

    def tune(self, x: Tensor, progress: float) -> dict[str, float | Tensor]:
        """One step of AdamW on views of the tiles."""
        with torch.autocast(x.device.type, enabled=False):  # pictures are not made in bfloat16
            views = make_views(x, mpp=self.config.mpp, zoom=(self.config.zoom_least, self.config.zoom_most))
        logits = self.classifier.logits(self.features.of_views(views.x)).float()
        normal, enlarged = cell_labels(views, logits.shape[-1])
        loss, margin = balanced_cross_entropy(logits, normal, enlarged)
        optimizer = self.optimizers["adamw"]
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress / SCALE_FROM))
        optimizer.zero_grad()
        loss.backward()
        self.average([p.grad for p in self.parameters if p.grad is not None])
        optimizer.step()
        count = enlarged.sum(dtype=torch.float64)[None]
        self.average([count])
        self.classifier.enlarged += count[0]
        return {"loss": loss.detach(), "margin": margin.detach()}

    @torch.no_grad()
    def see_scores(self, x: Tensor) -> dict[str, float | Tensor]:
        """Count the scores of normal tiles, and set the scale by all that have been counted."""
        if not self.classifier.enlarged:
            raise UnsuitableTilesError(
                "among the tiles seen were none rich in nuclei, or none of pink tissue, of which this detector makes "
                "its anomalies; it is for H&E of tissue that has both (lymph nodes): give more slides, or train another"
            )
        with torch.autocast(x.device.type, enabled=False):  # as they are scored later
            z = self.features(x)
            self.classifier.scale.copy_(self.classifier.scale.new_tensor([1.0, 0.0]))
            scores = self.score(x, None, z)[0].double()
            sums = torch.stack([torch.ones_like(scores).sum(), scores.sum(), scores.square().sum()])
            self.average([sums])
            self.classifier.scores += sums
            self.classifier.fit_scale()
            return {"deviation": self.score(x, None, z)[0].std()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None


def balanced_cross_entropy(
    logits: Float[Tensor, "n h w"], normal: Float[Tensor, "n h w"], enlarged: Float[Tensor, "n h w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Binary cross-entropy, the mean of that of both kinds of cells; and how far apart the logits of both kinds are.

    Args:
        logits: of cells.
        normal: 1 where a cell counts as normal.
        enlarged: 1 where it counts as enlarged; where neither, it does not count.
    """

    def mean(values: Tensor, counted: Tensor) -> Tensor:
        return (values * counted).sum() / counted.sum().clamp_min(1)

    loss = (mean(F.softplus(logits), normal) + mean(F.softplus(-logits), enlarged)) / 2
    return loss, mean(logits, enlarged) - mean(logits, normal)
