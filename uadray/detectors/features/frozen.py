"""x -> features of tiles, which densities and forests are fitted on: a frozen network, or what is measured by hand.

Every module here has `channels` and maps x [N, 3, h, w] in [-1, 1] to [N, C, h', w']: one vector a cell, or one a tile
(h' = w' = 1). None of them is trained by the detector that uses it.
"""

from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from uadray import config as configuration
from uadray.detectors.features import encoders
from uadray.detectors.features.encoders import EncoderFeatures, LayerName, Pooling
from uadray.detectors.features.given_encoder import load_given
from uadray.detectors.pixels import to_pixels
from uadray.errors import InputError
from uadray.networks.backbones import BackboneName, build_backbone
from uadray.tiles.nuclei import MEASURES, measured


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


class EncoderConfig(configuration.Config):
    """Features of an encoder that was trained by itself on normal tiles (`uadray.detectors.self_supervised`).

    Attributes:
        encoder: its sizes, told from the bundle when a training begins.
        bundle: URI of the bundle that it is taken from, in training alone: what is written has the encoder inside.
        mpp: of the tiles that it was trained on, um/px; told from the bundle.
        pooling: as of `BackboneConfig`.
    """

    kind: Literal["encoder"]
    encoder: encoders.Config | None = None
    bundle: str | None = Field(default=None, min_length=1, max_length=1000)
    mpp: float | None = Field(default=None, gt=0, le=1000)
    pooling: Pooling = "tile"


class NucleiConfig(configuration.Config):
    """What the nuclei of a tile are like, in um and amounts of stain: no network, one vector a tile.

    Attributes:
        mpp: of the tiles.
    """

    kind: Literal["nuclei"]
    mpp: float = Field(default=0.972, ge=0.1, le=1.5)


FeatureConfig = Annotated[
    BackboneConfig  # with `|`, one a line
    | EncoderConfig
    | NucleiConfig,
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


class NucleiFeatures(nn.Module):
    """The measures of `uadray.tiles.nuclei`. They are taken on the host, one tile after the other: a GPU waits.

    Attributes:
        channels: one a measure.
    """

    channels = len(MEASURES)

    def __init__(self, config: NucleiConfig) -> None:
        super().__init__()
        self.mpp = config.mpp

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 1 1"]:
        """One vector a tile."""
        rows = np.stack([measured(image, self.mpp) for image in to_pixels(x)])
        return torch.from_numpy(rows).to(x.device)[:, :, None, None]


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
        InputError: the network has no such layer, or there is no such encoder.
    """
    match config:
        case BackboneConfig():
            return BackboneFeatures(config, pretrained=pretrained)
        case EncoderConfig():
            return encoder_features(config, pretrained=pretrained)
        case NucleiConfig():
            return NucleiFeatures(config)


def encoder_features(config: EncoderConfig, *, pretrained: bool) -> EncoderFeatures:
    """A trained encoder, which stands still.

    Raises:
        InputError: no bundle is named, it cannot be opened, or is another than when the training began.
    """
    if config.encoder is None:
        raise InputError("features: the encoder's sizes are not known; `uadray train` reads them from features.bundle")
    features = EncoderFeatures(config.encoder, pretrained=False, pooling=config.pooling, stands_still=True)
    if pretrained:
        if config.bundle is None:
            raise InputError("features: name the bundle of a trained encoder, features.bundle (kind: self_supervised)")
        load_given(config.bundle, features, sizes=config.encoder)
    return features


def borrowed(config: FeatureConfig) -> tuple[str, ...]:
    """Names of the pinned weights that it needs."""
    match config:
        case BackboneConfig():
            return (config.name,)
        case EncoderConfig():
            return ()
        case NucleiConfig():
            return ()


def mpp_of(config: FeatureConfig) -> float | None:
    """The resolution that tiles must have; None: any."""
    match config:
        case BackboneConfig():
            return None
        case EncoderConfig() | NucleiConfig():
            return config.mpp


def channels_of(features: nn.Module) -> int:
    """C of what a module of features gives.

    Raises:
        TypeError: it is no module of features.
    """
    channels = getattr(features, "channels", None)
    if not isinstance(channels, int):
        raise TypeError(f"{type(features).__name__} is no module of features: it has no number of channels")
    return channels
