"""Diffusion (AnoDDPM): partial diffusion and back, from several noise levels.

Wyatt et al. 2022, "AnoDDPM: Anomaly detection with denoising diffusion probabilistic models using simplex noise",
https://doi.org/10.1109/CVPRW56347.2022.00080 ; Linmans et al. 2024, "Diffusion models for out-of-distribution detection
in digital pathology", https://doi.org/10.1016/j.media.2024.103088 ; Graham et al. 2023,
https://arxiv.org/abs/2211.07740 .

As in the papers: a U-Net learns the noise of diffused normal tiles by the simple loss of Ho et al. 2020
(https://arxiv.org/abs/2006.11239, eq. 14); a tile is diffused to a time before the last, and back; what is replaced is
the residual. Noise is white, or simplex noise of several scales (Wyatt et al. 2022). How much noise is the information
bottleneck: Linmans et al. look at reconstructions from different ratios of signal to noise, and Graham et al. combine
levels, each in deviations from normal images; so do we (`uadray.detectors.denoising.residuals`). Sampling in few steps,
as both do.

Different: steps are DDIM's (theirs are the ancestral sampler, and PLMS), five unless told otherwise; one is the
prediction of x_0, in a fifth of the time, and finds less. The network learns times up to the highest level alone: no
tile is diffused further. Noise is the same for every tile, so that a tile's score is the same whenever it is asked for.
Levels are some, not all times of a sampler. Residuals may be compared with those of normal tiles of the same contrast
(`by_contrast`), without which they are little else than the contrast. Of Linmans et al. 2024 the abstract could be
opened, and not the paper: how it combines levels, and which distance it takes, is not known here.

What it assumes: under some amount of noise enough of a normal tile is left to repeat it, and what is abnormal turns
into something normal.
"""

import copy
from collections.abc import Collection, Mapping
from typing import Annotated, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.denoising.partial_diffusion import NoiseKind, PartialDiffusion, noise_like
from uadray.detectors.denoising.residuals import LevelScore, ResidualKind
from uadray.detectors.denoising.sampling import time_of
from uadray.detectors.denoising.schedule import ScheduleKind, noised, signal_shares
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.inversion.generator_part import steps_for_last
from uadray.detectors.inversion.normals import Normals, contrast
from uadray.detectors.inversion.picture_distance import PictureDistance
from uadray.detectors.latents import Latent
from uadray.detectors.trainee import Average, Losses
from uadray.generators.averaging import follow_shown
from uadray.networks.lpips import Lpips, lpips_distance
from uadray.networks.outline import Networks
from uadray.networks.unet import UNet

MANY_PASSES = 16
"""Through the U-Net a tile: from so many on, what was found is kept for pictures and not made again."""

RAMP = 0.05
"""The average's half-life is at most this share of the images shown (Karras et al. 2020,
https://arxiv.org/abs/2006.06676, table 7)."""

LONGEST_GRADIENT = 1.0
"""Longer ones of all weights together are shortened to it (code of Ho et al. 2020)."""

Level = Annotated[int, Field(ge=1, le=10_000)]


class Config(configuration.Config):
    """Diffusion. AnoDDPM's size for 256 px: `width` 128, `halvings` 5, `blocks` 2, one level of 250, all steps.

    Attributes:
        input_px: side of the network's input, a multiple of 2 ** `halvings`.
        width: channels at full resolution; twice as many below.
        halvings: of the U-Net (Ho et al. 2020 for 32 px: 3).
        blocks: at each resolution (there: 2).
        attention_halvings: self-attention from so many halvings on, and in the middle in any case (there: 1).
        schedule: of the betas (AnoDDPM: linear).
        timesteps: T.
        noise: gaussian, or simplex noise (AnoDDPM).
        levels: times from which a tile is reconstructed, rising, the last at most T.
        steps: of the way back from each level, fewer where a level is lower; as many as the level: all.
        eta: noise on the way back: 0 is DDIM, 1 with all steps DDPM's ancestral sampling.
        residuals: distances between tile and reconstruction (Graham et al. 2023: both).
        by_contrast: normalise them by normal tiles of the tile's contrast.
        lpips_px: side to which pictures are brought for LPIPS.
        learning_rate: of Adam (Ho et al. 2020: 2e-4; AnoDDPM: 1e-4).
        half_life_images: of the average of weights that scores; Ho et al. 2020 keep 0.9999 a step of 128: 900,000.
        normals_fraction: last share of the steps, in which normal tiles are scored to normalise the residuals.
    """

    kind: Literal["diffusion"]
    input_px: int = Field(default=64, ge=8, le=512)
    width: int = Field(default=32, ge=4, le=256, multiple_of=4)
    halvings: int = Field(default=3, ge=1, le=6)
    blocks: int = Field(default=1, ge=1, le=4)
    attention_halvings: int = Field(default=3, ge=1, le=10)
    schedule: ScheduleKind = "cosine"
    timesteps: int = Field(default=1000, ge=2, le=10_000)
    noise: NoiseKind = "gaussian"
    levels: tuple[Level, ...] = Field(default=(100, 200, 300, 400), min_length=1, max_length=16)
    steps: int = Field(default=5, ge=1, le=1000)
    eta: float = Field(default=0.0, ge=0, le=1)
    residuals: tuple[ResidualKind, ...] = Field(default=("mse",), min_length=1, max_length=2)
    by_contrast: bool = False
    lpips_px: int = Field(default=64, ge=32, le=512)
    learning_rate: float = Field(default=2e-4, gt=0, le=10)
    half_life_images: float = Field(default=100_000.0, ge=0, le=1e9)
    normals_fraction: float = Field(default=0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times; lower halvings")
        if sorted(set(self.levels)) != list(self.levels) or self.levels[-1] > self.timesteps:
            raise ValueError(f"levels {self.levels} must rise, and the last be at most timesteps {self.timesteps}")
        if len(set(self.residuals)) < len(self.residuals):
            raise ValueError(f"residuals {self.residuals}: each one at most once")
        return self

    @property
    def passes(self) -> int:
        """Through the U-Net, a tile."""
        return sum(min(self.steps, level) for level in self.levels)

    @property
    def shown(self) -> int:
        """Which level's reconstruction people look at: the middle one, or the higher of two."""
        return len(self.levels) // 2

    @property
    def least_steps(self) -> int:
        """Steps of a training in which residuals are normalised."""
        return steps_for_last(self.normals_fraction)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """Those of LPIPS, if it is a distance."""
    return ("alexnet", "lpips_alexnet") if "lpips" in config.residuals else ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The U-Net in training and its average, what normal tiles have of each residual, and LPIPS if it is a distance."""
    denoiser = UNet(
        width=config.width, halvings=config.halvings, blocks=config.blocks,
        attention_halvings=config.attention_halvings,
    )  # fmt: skip
    result: Networks = {
        "denoiser": denoiser,
        "average": copy.deepcopy(denoiser).requires_grad_(False),
        "normals": Normals(len(config.residuals) * len(config.levels)),
    }
    return result | ({"lpips": lpips_distance("alexnet", pretrained=pretrained)} if "lpips" in config.residuals else {})


def partial_diffusion(config: Config, average: nn.Module) -> PartialDiffusion:
    """The stage `map`: x -> its reconstruction from each level, [n, levels, 3, h, w]."""
    return PartialDiffusion(
        average, signal_shares(config.schedule, config.timesteps), levels=config.levels, steps=config.steps,
        eta=config.eta, noise=config.noise,
    )  # fmt: skip


def score_of(config: Config, networks: Mapping[str, nn.Module]) -> LevelScore:
    """The stage `score`."""
    distance = None
    if "lpips" in config.residuals:
        distance = PictureDistance(cast(Lpips, networks["lpips"]), side_px=config.lpips_px)
    return LevelScore(
        cast(Normals, networks["normals"]), residuals=config.residuals, distance=distance,
        by_contrast=config.by_contrast,
    )  # fmt: skip


def picture_at(z: Latent, level: int) -> Float[Tensor, "n 3 h w"]:
    """The reconstruction from one level."""
    return cast(Tensor, z)[:, level]


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Partial diffusion and back, the middle level for people, residuals of all levels."""
    return assemble(
        networks,
        mapping=lambda placed: partial_diffusion(config, placed["average"]),
        reconstruct=lambda placed: lambda z: picture_at(z, config.shown),
        score=lambda placed: score_of(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
        searches=config.passes >= MANY_PASSES,
    )  # fmt: skip


class Trainee:
    """The U-Net and its average, then the residuals of normal tiles."""

    phases: tuple[str, ...] = ("denoiser", "normals")

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.denoiser = networks["denoiser"]
        self.normals = cast(Normals, networks["normals"])
        self.optimizers: dict[str, Optimizer] = {"denoiser": Adam(self.denoiser.parameters(), config.learning_rate)}
        self.counts = {"averaged_at_images": 0}
        self._shares = signal_shares(config.schedule, config.timesteps).float()

    def phase(self, progress: float) -> str:
        """`normals` for the last `normals_fraction`."""
        return "denoiser" if progress < 1 - self.config.normals_fraction else "normals"

    def learning_rate(self, progress: float) -> str:
        """That of the U-Net."""
        return "learning_rate" if self.phase(progress) == "denoiser" else ""

    def prepare(self, x: Tensor) -> None:
        """Nothing is fitted before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of the U-Net, or the residuals of normal tiles."""
        return self.denoiser_step(x) if self.phase(progress) == "denoiser" else self.normals_step(x)

    def denoiser_step(self, x: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        """A step of Adam by the simple loss at random times, and of the average."""
        t = torch.randint(1, self.config.levels[-1] + 1, (len(x),), device=x.device)
        loss = simple_loss(
            self.denoiser, x, noise_like(x, self.config.noise), t,
            alpha_bar=self._shares.to(x.device)[t], timesteps=self.config.timesteps,
        )  # fmt: skip
        self.optimizers["denoiser"].zero_grad()
        loss.backward()
        parameters = [p for p in self.denoiser.parameters() if p.grad is not None]
        self.average([p.grad for p in parameters if p.grad is not None])
        nn.utils.clip_grad_norm_(parameters, LONGEST_GRADIENT)
        self.optimizers["denoiser"].step()
        half_life = min(self.config.half_life_images, RAMP * self.counts.get("images_shown", 0))
        follow_shown(self.networks["average"], self.denoiser, self.counts, half_life_images=half_life)
        return {"noise": loss.detach()}

    @torch.no_grad()
    def normals_step(self, x: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        """Count the residuals of normal tiles, those of all workers; the mean of each distance by level."""
        with torch.autocast(x.device.type, enabled=False):
            z = self._reconstructions(x.float())
            values, _ = score_of(self.config, self.networks).measured(x.float(), z)
            self.normals.see(contrast(x.float()), values, self.average)
        names = [f"{kind}_{level}" for kind in self.config.residuals for level in self.config.levels]
        return dict(zip(names, values.mean(0).unbind(), strict=True))

    def finish(self) -> None:
        """Means and deviations of the residuals.

        Raises:
            UnsuitableTilesError: too few tiles were seen, or a residual is the same of all.
        """
        self.normals.fit()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """From the level that people look at."""
        return picture_at(self._reconstructions(x), self.config.shown)

    def _reconstructions(self, x: Tensor) -> Tensor:
        return partial_diffusion(self.config, self.networks["average"])(x)


def simple_loss(
    denoiser: nn.Module,
    x: Float[Tensor, "n 3 h w"],
    noise: Float[Tensor, "n 3 h w"],
    t: Tensor,
    *,
    alpha_bar: Float[Tensor, " n"],
    timesteps: int,
) -> Float[Tensor, ""]:
    """L_simple (Ho et al. 2020, eq. 14): mean squared error of the predicted noise, over pixels, colours and images.

    Args:
        denoiser: the network.
        x: images.
        noise: with which they are diffused.
        t: [n], the time of each.
        alpha_bar: at these times.
        timesteps: T.
    """
    predicted = denoiser(noised(x, noise, alpha_bar), time_of(t, timesteps))
    loss: Tensor = (predicted.float() - noise).square().mean()
    return loss
