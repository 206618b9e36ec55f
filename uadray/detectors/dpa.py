"""Deep perceptual autoencoder. https://arxiv.org/abs/2006.13265 .

Tuluptceva et al. 2020, "Anomaly Detection with Deep Perceptual Autoencoders".

As in the paper: a convolutional autoencoder of pre-activation residual blocks with a small spatial bottleneck, trained
with the relative perceptual L1 loss on frozen features (see `uadray.detectors.losses`), and the same loss as score.
Different: no progressive growing (the resolution is fixed), nearest-neighbour upsampling, a linear output.

What it assumes: what is abnormal has textures that do not pass a small bottleneck which normal tiles have learned.
"""

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors import losses
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.latents import EncoderMap
from uadray.detectors.scores import PerceptualScore
from uadray.detectors.trainee import Average
from uadray.networks.backbones import build_backbone
from uadray.networks.layers import PreActivationBlock
from uadray.networks.outline import Networks

LayerName = Annotated[str, StringConstraints(max_length=40)]

WIDEST = 64
"""Channels double with each halving up to this number: what passes is limited by the latent, not by the width."""

FIT_TILES = 16
"""Tiles whose feature maps are held at once: 270 MB of `relu1_2` of VGG at 256 px, of 256 tiles 4.3 GB."""

DISTANCES = {"relative_l1": losses.relative_perceptual_l1, "relative_l2": losses.relative_perceptual_l2}


class Config(configuration.Config):
    """A deep perceptual autoencoder.

    Attributes:
        input_px: side of the network's input; larger tiles are cropped (at random in training, centred in scoring).
        backbone: the frozen network whose features compare image and reconstruction.
        layers: its layers, by the names of `uadray.networks.backbones`.
        width: channels at full resolution.
        halvings: how often the side is halved down to the latent.
        latent_channels: channels of the latent; with `halvings` they set how much of an image can pass.
        score: `relative_l1`, the training loss (the paper), or `relative_l2`, the same with squared differences, so
            that a few large differences count for more than many small ones (its worth: DECISIONS.md, 2026-11-22).
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
    def _divisible(self) -> "Config":
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times")
        return self


def widths(width: int, halvings: int) -> list[int]:
    """Channels after each halving of the side.

    >>> widths(16, 3)
    [16, 32, 64]
    """
    return [min(width * 2**level, WIDEST) for level in range(halvings)]


class Encoder(nn.Module):
    """Image to a spatial latent.

    `halvings` times a residual block and a mean over 2 x 2 pixels, then a 1 x 1 convolution to the latent's channels.
    """

    def __init__(self, *, width: int, halvings: int, latent_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        channels = width
        for wider in widths(width, halvings):
            layers += [PreActivationBlock(channels, wider), nn.AvgPool2d(2)]
            channels = wider
        layers += [PreActivationBlock(channels, channels), nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, latent_channels, 1))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent h2 w2"]:
        """X in [-1, 1]; the sides must be multiples of 2 ** halvings."""
        z: Tensor = self.layers(x)
        return z


class Decoder(nn.Module):
    """The encoder's mirror: latent to image."""

    def __init__(self, *, width: int, halvings: int, latent_channels: int) -> None:
        super().__init__()
        channels = widths(width, halvings)[-1]
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, channels, 1), PreActivationBlock(channels, channels)]
        for narrower in reversed(widths(width, halvings)):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), PreActivationBlock(channels, narrower)]
            channels = narrower
        layers += [nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, z: Float[Tensor, "n latent h2 w2"]) -> Float[Tensor, "n 3 h w"]:
        """The reconstruction, nominally in [-1, 1] (not clipped: clipping has no gradient)."""
        x_hat: Tensor = self.layers(z)
        return x_hat


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


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """The frozen backbone."""
    return (config.backbone,)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder and decoder, untrained, and the frozen features.

    Raises:
        InputError: the backbone has no such layer.
    """
    sizes = {"width": config.width, "halvings": config.halvings, "latent_channels": config.latent_channels}
    backbone = build_backbone(config.backbone, config.layers, pretrained=pretrained)
    return {
        "encoder": Encoder(**sizes),
        "decoder": Decoder(**sizes),
        "features": PerceptualFeatures(backbone, list(backbone.channels)),
    }


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, decoder, relative perceptual distance."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["decoder"],
        score=lambda placed: PerceptualScore(placed["features"], distance=DISTANCES[config.score]),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Relative perceptual L1, Adam, a learning rate that falls along a half cosine."""

    phases: tuple[str, ...] = ("autoencoder",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.decoder, self.features = (networks[n] for n in ("encoder", "decoder", "features"))
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizers: dict[str, Optimizer] = {"adam": Adam(self.parameters, lr=config.learning_rate)}
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return "autoencoder"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that encoder and decoder learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Fit the normalisation of the features."""
        if not isinstance(self.features, PerceptualFeatures):
            raise TypeError(f"features: expected PerceptualFeatures, found {type(self.features).__name__}")
        self.features.fit(x)

    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """One step of Adam on x [N, 3, h, w] in [-1, 1]; the losses."""
        optimizer = self.optimizers["adam"]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        with torch.no_grad():
            features = self.features(x)
        x_hat = self.decoder(self.encoder(x))
        perceptual = losses.relative_perceptual_l1(features, self.features(x_hat)).mean()
        loss = perceptual
        if self.config.pixel_weight:
            loss = loss + self.config.pixel_weight * losses.relative_l1(x, x_hat).mean()
        optimizer.zero_grad()
        loss.backward()
        self.average([p.grad for p in self.parameters if p.grad is not None])
        optimizer.step()
        return {"perceptual": perceptual.item(), "loss": loss.item()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode what was encoded."""
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat
