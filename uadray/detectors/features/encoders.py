"""Networks that learn features of tiles by themselves: their sizes, and tiles -> their features."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from uadray import config as configuration
from uadray.networks.backbones import layer_names
from uadray.networks.resnet import STAGES, ResNet, Stem
from uadray.networks.trained_lite0 import TrainedLite0

LayerName = Annotated[str, StringConstraints(max_length=40)]
Pooling = Literal["tile", "cells"]

SIDE_MULTIPLE = 32
"""Of the side that an encoder sees: both halve it five times at the most."""


class Config(configuration.Config):
    """The sizes of an encoder.

    Attributes:
        network: `resnet18`, which starts from random weights, or `efficientnet_lite0`, from those of ImageNet.
        layers: whose features a tile is told by: `stage1` to `stage4`, or `block0` to `block15`; the deepest learns.
            None: the deepest alone.
        width: channels of the first stage of `resnet18` (paper: 64); the fourth has eight times as many.
        stem: of `resnet18`, see `uadray.networks.resnet.Stem`; `half` takes a quarter of the time of `full`.
        enlarged: so many pixels a side does the encoder see for one of the tile.
    """

    network: Literal["resnet18", "efficientnet_lite0"] = "resnet18"
    layers: tuple[LayerName, ...] | None = Field(default=None, min_length=1, max_length=16)
    width: int = Field(default=64, ge=4, le=128)
    stem: Stem = "half"
    enlarged: int = Field(default=1, ge=1, le=4)

    @model_validator(mode="after")
    def _layers_exist(self) -> "Config":
        if self.layers is not None and len(self.kept_layers) < len(self.layers):
            raise ValueError(f"layers of {self.network} are {', '.join(self.known_layers)}; name each once")
        return self

    @property
    def known_layers(self) -> tuple[str, ...]:
        """Of the network, in forward order."""
        return STAGES if self.network == "resnet18" else layer_names(self.network)

    @property
    def kept_layers(self) -> tuple[str, ...]:
        """Those that features are taken of, in forward order: the last is the deepest."""
        known = self.known_layers
        return known[-1:] if self.layers is None else tuple(layer for layer in known if layer in self.layers)


class EncoderFeatures(nn.Module):
    """x -> one vector a tile, or a cell: the maps of an encoder's layers, on one grid, or their means.

    Attributes:
        channels: of all layers together.
        deepest: channels of the last layer, which learns.
    """

    def __init__(
        self, config: Config, *, pretrained: bool, pooling: Pooling = "tile", stands_still: bool = False
    ) -> None:
        """Build it.

        Args:
            config: its sizes.
            pretrained: start from the weights that others trained, where `network` has any.
            pooling: `tile`, the mean of each layer's map, or `cells`, one vector a position of the coarsest map.
            stands_still: it is in evaluation and without gradients, whatever its parent is told.

        Raises:
            WorkError: the pinned weights cannot be had.
        """
        super().__init__()
        self.enlarged, self.pooling, self.stands_still = config.enlarged, pooling, stands_still
        self.encoder: ResNet | TrainedLite0
        if config.network == "resnet18":
            self.encoder = ResNet(config.kept_layers, width=config.width, stem=config.stem)
        else:
            self.encoder = TrainedLite0(config.kept_layers, pretrained=pretrained)
        self.channels, self.deepest = sum(self.encoder.channels), self.encoder.channels[-1]
        if stands_still:
            self.requires_grad_(False).eval()

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """[N, C, h', w'] of tiles in [-1, 1]; h' = w' = 1 for `tile`."""
        return self.pooled(self.encoder(enlarged(x, self.enlarged)))

    def pooled(self, maps: list[Tensor]) -> Tensor:
        """Maps of the layers -> [N, C, h', w']."""
        side = 1 if self.pooling == "tile" else maps[-1].shape[-1]
        return torch.cat([F.adaptive_avg_pool2d(f, side) for f in maps], 1)

    def of_views(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c2"]:
        """What learns: the mean of the deepest map of views, which have the side that the encoder sees."""
        deepest: Tensor = self.encoder(x)[-1]
        return deepest.mean((2, 3))

    def train(self, mode: bool = True) -> "EncoderFeatures":
        """Stay in evaluation where it stands still."""
        return super().train(mode and not self.stands_still)


def enlarged(x: Float[Tensor, "n 3 h w"], times: int) -> Float[Tensor, "n 3 h2 w2"]:
    """Tiles with so many pixels a side for one, bicubic and within [-1, 1]."""
    if times == 1:
        return x
    return F.interpolate(x, scale_factor=times, mode="bicubic", align_corners=False).clamp(-1, 1)
