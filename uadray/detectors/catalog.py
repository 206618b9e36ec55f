"""The detectors' configurations, a discriminated union, and the one `match` that builds their networks.

A configuration may come with a bundle from elsewhere: every size in it is bounded, and so is what they make together.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn

from uadray.config import Config
from uadray.detectors.dpa import Decoder, Encoder
from uadray.errors import InputError
from uadray.networks.backbones import build_backbone
from uadray.networks.izi_encoder import IziEncoder
from uadray.networks.wgan_gp import START_PX, Critic, Generator

Networks = dict[str, nn.Module]

MAX_PARAMETERS = 500_000_000
"""Of all networks of a detector: 2 GB. VGG19 to its last layer has 20 million, f-AnoGAN of the paper's size 30."""

LayerName = Annotated[str, StringConstraints(max_length=40)]

FIT_TILES = 16
"""Tiles whose feature maps are held at once: 270 MB of `relu1_2` of VGG at 256 px, of 256 tiles 4.3 GB."""


class DpaConfig(Config):
    """A deep perceptual autoencoder (see `uadray.detectors.dpa`).

    Attributes:
        input_px: side of the network's input; larger tiles are cropped (at random in training, centred in scoring).
        backbone: the frozen network whose features compare image and reconstruction.
        layers: its layers, by the names of `uadray.networks.backbones`.
        width: channels at full resolution.
        halvings: how often the side is halved down to the latent.
        latent_channels: channels of the latent; with `halvings` they set how much of an image can pass.
        score: `relative_l1`, the training loss (the paper), or `relative_l2`, its square norm, which few strongly wrong
            features weigh more in than many slightly wrong ones (see DECISIONS.md for what it is worth).
        pixel_weight: weight of the relative pixel L1 beside the perceptual loss, in training only.
        learning_rate: of Adam, falling to 2 % along a half cosine.
    """

    kind: Literal["dpa"]
    input_px: int = Field(default=64, ge=16, le=1024)
    backbone: Literal["efficientnet_lite0", "vgg16", "vgg19", "alexnet"] = "efficientnet_lite0"
    layers: tuple[LayerName, ...] = Field(default=("block4", "block7"), min_length=1, max_length=32)
    width: int = Field(default=16, ge=4, le=256)
    halvings: int = Field(default=3, ge=1, le=6)
    latent_channels: int = Field(default=4, ge=1, le=1024)
    score: Literal["relative_l1", "relative_l2"] = "relative_l1"
    pixel_weight: float = Field(default=0.0, ge=0, le=1e6)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)

    @model_validator(mode="after")
    def _divisible(self) -> "DpaConfig":
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times")
        return self


class FanoganConfig(Config):
    """f-AnoGAN: WGAN-GP, then the izi_f encoder (see `uadray.networks.wgan_gp` and `izi_encoder`).

    Attributes:
        input_px: side of the network's input, a power of two from 16.
        width: channels at full resolution, of generator, critic and encoder.
        latent_dim: length of z.
        critic_steps: critic steps per generator step (paper: 5).
        penalty: weight of the gradient penalty (paper: 10).
        kappa: weight of the critic-feature residual (paper: 1).
        encoder_fraction: last share of the steps, which trains the encoder.
        gan_learning_rate: of Adam with betas 0 and 0.9 (Gulrajani et al. 2017).
        encoder_learning_rate: of Adam.
    """

    kind: Literal["fanogan"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=128, ge=2, le=4096)
    critic_steps: int = Field(default=5, ge=1, le=1000)
    penalty: float = Field(default=10.0, ge=0, le=1e6)
    kappa: float = Field(default=1.0, ge=0, le=1e6)
    encoder_fraction: float = Field(default=0.4, gt=0, lt=1)
    gan_learning_rate: float = Field(default=1e-4, gt=0, le=10)
    encoder_learning_rate: float = Field(default=1e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _power_of_two(self) -> "FanoganConfig":
        if self.input_px & (self.input_px - 1) or self.input_px < 4 * START_PX:
            raise ValueError(f"input_px {self.input_px} is no power of two from {4 * START_PX}")
        return self


DetectorConfig = Annotated[DpaConfig | FanoganConfig, Field(discriminator="kind")]


class PerceptualFeatures(nn.Module):
    """A frozen backbone whose features have mean 0 and deviation 1 by channel on normal tiles (paper: section 3.1)."""

    def __init__(self, backbone: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.backbone = backbone
        for i, count in enumerate(channels):
            self.register_buffer(f"mean{i}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"deviation{i}", torch.ones(1, count, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """X [N, 3, h, w] in [-1, 1] -> one normalised map [N, C, h', w'] a layer."""
        maps = self.backbone(x)
        return [(f - self.get_buffer(f"mean{i}")) / self.get_buffer(f"deviation{i}") for i, f in enumerate(maps)]

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take the statistics of normal tiles x [N, 3, h, w]; N of some hundreds is enough.

        `FIT_TILES` at a time: a map of the first layers is many times as large as its tile. Means and squared
        deviations of the parts are put together in float64 (Chan et al. 1979, "Updating Formulae").
        """
        n, means, squares = 0, list[Tensor](), list[Tensor]()
        for batch in x.split(FIT_TILES):
            maps = self.backbone(batch)
            if not n:
                means = [torch.zeros(f.shape[1], dtype=torch.float64, device=f.device) for f in maps]
                squares = [torch.zeros_like(mean) for mean in means]
            for i, f in enumerate(maps):
                more, before = f.numel() // f.shape[1], n * f[0, 0].numel()
                variance, mean = (t.double() for t in torch.var_mean(f, (0, 2, 3), correction=0))
                delta, total = mean - means[i], before + more
                means[i] += delta * more / total
                squares[i] += variance * more + delta**2 * before * more / total
            n += len(batch)
            cells = [f[0, 0].numel() for f in maps]
        for i, (mean, square, count) in enumerate(zip(means, squares, cells, strict=True)):
            deviation = (square / (n * count - 1)).sqrt().clamp_min(1e-6)
            self.get_buffer(f"mean{i}").copy_(mean.view(1, -1, 1, 1))
            self.get_buffer(f"deviation{i}").copy_(deviation.view(1, -1, 1, 1))


def build_networks(config: DetectorConfig, *, pretrained: bool = True) -> Networks:
    """The networks of a detector, by name, untrained.

    Args:
        config: which and how large.
        pretrained: load the backbone's published weights; False where a bundle's own follow.

    Raises:
        InputError: see `outline`.
    """
    outline(config)
    return _networks(config, pretrained=pretrained)


def outline(config: DetectorConfig) -> Networks:
    """The networks as names and shapes alone, on torch's device `meta`: nothing is allocated.

    Raises:
        InputError: they would have more than `MAX_PARAMETERS`, or the backbone has no such layer.
    """
    with torch.device("meta"):
        networks = _networks(config, pretrained=False)
    count = sum(t.numel() for network in networks.values() for t in network.state_dict().values())
    if count > MAX_PARAMETERS:
        raise InputError(
            f"detector {config.kind}: {count:,} parameters, at most {MAX_PARAMETERS:,} are built; lower width"
        )
    return networks


def _networks(config: DetectorConfig, *, pretrained: bool) -> Networks:
    match config:
        case DpaConfig():
            sizes = {
                "width": config.width, "halvings": config.halvings, "latent_channels": config.latent_channels
            }  # fmt: skip
            backbone = build_backbone(config.backbone, config.layers, pretrained=pretrained)
            return {
                "encoder": Encoder(**sizes),
                "decoder": Decoder(**sizes),
                "features": PerceptualFeatures(backbone, list(backbone.channels)),
            }
        case FanoganConfig():
            width, side, latent = config.width, config.input_px, config.latent_dim
            return {
                "generator": Generator(width=width, input_px=side, latent_dim=latent),
                "critic": Critic(width=width, input_px=side),
                "encoder": IziEncoder(width=width, input_px=side, latent_dim=latent),
            }
