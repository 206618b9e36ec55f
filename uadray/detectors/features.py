"""x -> features of tiles, which densities and forests are fitted on: a frozen network, or what is measured by hand.

Every module here has `channels` and maps x [N, 3, h, w] in [-1, 1] to [N, C, h', w']: one vector a cell, or one a tile
(h' = w' = 1). None of them is trained by the detector that uses it.
"""

from typing import Annotated, Literal, Protocol

import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints
from torch import Tensor, nn
from torch.nn import functional as F

from uadray import config as configuration
from uadray.networks.backbones import BackboneName, build_backbone

LayerName = Annotated[str, StringConstraints(max_length=40)]
Pooling = Literal["tile", "cells"]


class BackboneConfig(configuration.Config):
    """Features of a frozen ImageNet network.

    Attributes:
        name: which.
        layers: its layers, by the names of `uadray.networks.backbones`; of several, the channels follow each other.
        side_px: tiles are resized to this side, so that the network sees what it was trained for (a multiple of 32);
            None: as they are.
        pooling: `tile`, the mean over each layer's map, or `cells`, one vector a position of the coarsest of the maps.
    """

    kind: Literal["backbone"]
    name: BackboneName = "efficientnet_lite0"
    layers: tuple[LayerName, ...] = Field(default=("block15",), min_length=1, max_length=32)
    side_px: int | None = Field(default=None, ge=32, le=1024, multiple_of=32)
    pooling: Pooling = "tile"


FeatureConfig = Annotated[
    BackboneConfig,  # with `|`, one a line
    Field(discriminator="kind"),
]


class Features(Protocol):
    """What every module of features has.

    Attributes:
        channels: C.
    """

    channels: int

    def __call__(self, x: Tensor) -> Tensor:
        """X [N, 3, h, w] in [-1, 1] -> [N, C, h', w']."""
        ...


class BackboneFeatures(nn.Module):
    """Maps of a frozen network's layers, on one grid, or their means.

    Attributes:
        channels: of all layers together.
    """

    def __init__(self, config: BackboneConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.side_px, self.pooling = config.side_px, config.pooling
        self.backbone = build_backbone(config.name, config.layers, pretrained=pretrained)
        self.channels = sum(self.backbone.channels)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """One vector a tile or cell."""
        maps = self.backbone(resized(x, self.side_px))
        if self.pooling == "tile":
            return torch.cat([f.mean((2, 3), keepdim=True) for f in maps], 1)
        height, width = (min(f.shape[axis] for f in maps) for axis in (2, 3))
        return torch.cat([on_grid(f, height, width) for f in maps], 1)

    def train(self, mode: bool = True) -> "BackboneFeatures":
        """Stay in evaluation."""
        return super().train(False)


def resized(x: Float[Tensor, "n 3 h w"], side_px: int | None) -> Float[Tensor, "n 3 h2 w2"]:
    """Tiles of this side, bicubic and within [-1, 1]; None: as they are."""
    if side_px is None or x.shape[-1] == side_px:
        return x
    is_finer = x.shape[-1] > side_px
    size = (side_px, side_px)
    return F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=is_finer).clamp(-1, 1)


def on_grid(f: Float[Tensor, "n c h w"], height: int, width: int) -> Float[Tensor, "n c h2 w2"]:
    """A map on a grid that is as fine or coarser: means over areas."""
    return f if f.shape[2:] == (height, width) else F.adaptive_avg_pool2d(f, (height, width))


def build_features(config: FeatureConfig, *, pretrained: bool) -> nn.Module:
    """A module that stands still, with `channels`; see `Features`.

    Args:
        config: which.
        pretrained: load the weights that others trained; False where a bundle's own follow.

    Raises:
        InputError: the network has no such layer.
    """
    match config:
        case BackboneConfig():
            return BackboneFeatures(config, pretrained=pretrained)


def borrowed(config: FeatureConfig) -> tuple[str, ...]:
    """Names of the pinned weights that it needs."""
    match config:
        case BackboneConfig():
            return (config.name,)


def channels_of(features: nn.Module) -> int:
    """C of what a module of features gives.

    Raises:
        TypeError: it is no module of features.
    """
    channels = getattr(features, "channels", None)
    if not isinstance(channels, int):
        raise TypeError(f"{type(features).__name__} is no module of features: it has no number of channels")
    return channels
