"""A network that learned to find synthetic anomalies: patches of other tiles, interpolated, pasted or blended.

Foreign patch interpolation: Tan et al. 2020, https://arxiv.org/abs/2011.04197 . CutPaste: Li et al. 2021,
https://arxiv.org/abs/2104.04015 . Natural synthetic anomalies (NSA): Schlüter et al. 2022,
https://arxiv.org/abs/2109.15222 .

As in the papers: every step makes anomalies of normal tiles (`uadray.detectors.synthetic`), and an encoder and a
decoder without connections past the latent learn how foreign each pixel is, by a binary cross-entropy: the share of
the other tile (`interpolated`), whether something was pasted (`pasted`), how much colours have changed (`blended`). The
score is the mean of the map. `score: gaussian` is CutPaste's: the Mahalanobis distance of the encoder's mean features,
of which a Gaussian is fitted to normal tiles in the last part of the training.

Different: patches come from another tile of the batch, most often of another slide (CutPaste: from the same image).
CutPaste's classes of whole images (normal, patch, scar) are a mask of pixels here, its patches keep their hue, and its
Gaussian is shrunk. Sizes in pixels are shares of the tile's side. NSA's patches do not avoid the background, their
seam lies one pixel further out, and labels take medians over 3 x 3 pixels. Networks are small, and tiles are normalised
one by one, not by batch.

What it assumes: what is abnormal looks as if it had been brought into a normal tile from elsewhere: it does not fit
what surrounds it. A tile that is tumour from edge to edge fits its surroundings.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.densities.moments import Moments, Projection, whitening
from uadray.detectors.densities.projected import SeenFeatures
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.gradient_steps import update
from uadray.detectors.latents import Latent, LatentMap
from uadray.detectors.scores import Score
from uadray.detectors.synthetic import blending, interpolation, pasting
from uadray.detectors.synthetic.patches import Synthetic
from uadray.detectors.trainee import Average, Losses, UnsuitableTilesError
from uadray.networks.outline import Networks
from uadray.networks.segmenter import MapDecoder, MapEncoder, channels_of


class Config(configuration.Config):
    """A network that learns from synthetic anomalies.

    Attributes:
        input_px: side of what the network sees, a multiple of 2 ** `halvings`.
        anomalies: `interpolated` (FPI), `pasted` (CutPaste) or `blended` (NSA).
        border_px: of what is interpolated or pasted, so many pixels fade in from the patch's border; 0 as in the
            papers, where an edge shows the patch.
        mixed_gradients: of what is blended, keep the tile's gradients where they are the stronger ones.
        width: channels at half the resolution.
        halvings: of the side, down to the deepest features.
        score: the mean of the `map`, or of a `gaussian` on the deepest features.
        density_share: last share of the steps, in which the network stands still and that Gaussian is fitted.
        learning_rate: of Adam, the greatest; it falls to 0 along a half cosine (NSA).
    """

    kind: Literal["synthetic_anomalies"]
    input_px: int = Field(default=64, ge=16, le=1024)
    anomalies: Literal["interpolated", "pasted", "blended"] = "interpolated"
    border_px: float = Field(default=0.0, ge=0, le=64)
    mixed_gradients: bool = False
    width: int = Field(default=16, ge=4, le=256)
    halvings: int = Field(default=4, ge=2, le=6)
    score: Literal["map", "gaussian"] = "map"
    density_share: float = Field(default=0.1, gt=0, le=0.5)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} is no multiple of {2**self.halvings} (2 ** halvings)")
        if self.border_px and self.anomalies == "blended":
            raise ValueError("border_px: what is blended has no border; leave it 0, or take other anomalies")
        if self.mixed_gradients and self.anomalies != "blended":
            raise ValueError("mixed_gradients is of anomalies: blended")
        return self

    @property
    def least_steps(self) -> int:
        """Of a training: so many have one in which the Gaussian is fitted."""
        return 1 if self.score == "map" else int(1 / self.density_share) + 1


def synthesis(config: Config) -> tuple[int, Callable[[Tensor, Tensor], Synthetic]]:
    """How many numbers a tile takes, and what makes anomalies of tiles and of these."""
    match config.anomalies:
        case "interpolated":
            return interpolation.DRAWS, lambda x, draws: interpolation.interpolated(
                x, draws, border_px=config.border_px
            )
        case "pasted":
            return pasting.DRAWS, lambda x, draws: pasting.pasted(x, draws, border_px=config.border_px)
        case "blended":
            return blending.DRAWS, lambda x, draws: blending.blended(x, draws, mixed=config.mixed_gradients)


class TileFeatures(nn.Module):
    """The encoder's deepest features, averaged over a tile."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 1 1"]:
        """X in [-1, 1]."""
        features: Tensor = self.encoder(x)
        return features.mean((2, 3), keepdim=True)


class ForeignMap:
    """Tiles -> logits of how foreign each pixel is; with a projection, the whitened features too. The stage `map`."""

    def __init__(self, networks: Mapping[str, nn.Module], *, has_gaussian: bool) -> None:
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.projection = networks["projection"] if has_gaussian else None

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """[N, 1, h, w]; or that and [N, c, 1, 1]."""
        features: Tensor = self.encoder(x)
        logits: Tensor = self.decoder(features)
        if self.projection is None:
            return logits
        return logits, self.projection(features.mean((2, 3), keepdim=True))


def mean_score(x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
    """The mean of the map (Tan et al. 2020), and the map."""
    foreignness = torch.sigmoid(cast(Tensor, z))[:, 0]
    return foreignness.mean((1, 2)), foreignness


def gaussian_score(x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
    """The Mahalanobis distance (Li et al. 2021), over the root of the dimensions; the map is the network's."""
    logits, whitened = cast(tuple[Tensor, Tensor], z)
    return whitened.flatten(1).square().mean(1).sqrt(), torch.sigmoid(logits)[:, 0]


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None is needed."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder and decoder, and what is fitted to the features if that is the score."""
    sizes = {"width": config.width, "halvings": config.halvings}
    pair: Networks = {"encoder": MapEncoder(**sizes), "decoder": MapDecoder(**sizes)}
    if config.score == "map":
        return pair
    channels = channels_of(**sizes)[-1]
    return pair | {"moments": Moments(channels), "projection": Projection(channels, channels)}


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """The network, no picture, the mean of its map or the distance of its features."""
    has_gaussian = config.score == "gaussian"
    score: Score = gaussian_score if has_gaussian else mean_score

    def mapping(placed: Mapping[str, nn.Module]) -> LatentMap:
        return ForeignMap(placed, has_gaussian=has_gaussian)

    return assemble(
        networks, mapping=mapping, reconstruct=no_picture, score=lambda placed: score, input_px=config.input_px,
        device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Binary cross-entropy of the labels of synthetic anomalies; then, of the Gaussian, sums of features."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.phases: tuple[str, ...] = ("network",) if config.score == "map" else ("network", "gaussian")
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.draws, self.synthesis = synthesis(config)
        self.learning = [p for part in (self.encoder, self.decoder) for p in part.parameters()]
        fused = self.learning[0].is_cuda or None
        self.optimizers: dict[str, Optimizer] = {
            "adam": Adam(self.learning, lr=config.learning_rate, fused=fused),
        }
        self.counts: dict[str, int] = {"gaussian_steps": 0}
        self.seen = SeenFeatures({**networks, "features": TileFeatures(self.encoder)}, average=average)

    def phase(self, progress: float) -> str:
        """The Gaussian, if there is one, for the last `density_share` of the training."""
        return self.phases[-1] if progress >= 1 - self.config.density_share else "network"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the network learns by; while the Gaussian is fitted it does not."""
        return "learning_rate" if self.phase(progress) == "network" else ""

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """Learn from anomalies made of tiles x [N, 3, h, w] in [-1, 1], or sum up the features of the tiles.

        Raises:
            UnsuitableTilesError: of one tile alone no anomaly can be made.
        """
        if self.phase(progress) == "network":
            return self.learn(x, progress)
        if self.counts["gaussian_steps"] == 0:
            self.seen.place(x)
        self.counts["gaussian_steps"] += 1
        return self.seen.sum(x)

    def learn(self, x: Tensor, progress: float) -> dict[str, Tensor]:
        """One step of Adam."""
        if len(x) < 2:
            raise UnsuitableTilesError("anomalies are made of pairs of tiles: a batch_size of 2 is the least")
        end = 1.0 if self.config.score == "map" else 1 - self.config.density_share
        optimizer = self.optimizers["adam"]
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress / end)))
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            made = self.synthesis(x.float(), torch.rand(len(x), self.draws, device=x.device))
        logits = self.decoder(self.encoder(made.x)).float()
        loss = F.binary_cross_entropy_with_logits(logits, made.label)
        update(optimizer, self.learning, loss, self.average)
        return {"cross_entropy": loss.detach(), "contrast": contrast(logits.detach(), made.label)}

    @torch.no_grad()
    def finish(self) -> None:
        """Fit the Gaussian to all features that were summed.

        Raises:
            UnsuitableTilesError: they do not vary.
        """
        if self.config.score == "gaussian":
            self.seen.project(lambda moments: whitening(moments.shrunk_covariance(), len(moments.first)))

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None


def contrast(logits: Float[Tensor, "n 1 h w"], label: Float[Tensor, "n 1 h w"]) -> Float[Tensor, ""]:
    """How much higher the map is where patches are than where none is; 0 where it tells nothing."""
    foreignness, is_patch = torch.sigmoid(logits), (label > 0).float()
    inside = (foreignness * is_patch).sum() / is_patch.sum().clamp_min(1)
    outside = (foreignness * (1 - is_patch)).sum() / (1 - is_patch).sum().clamp_min(1)
    return inside - outside
