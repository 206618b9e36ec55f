"""Projection: the closest picture that a generator can draw. https://arxiv.org/abs/1912.04958 (appendix D).

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN": a latent, and the generator's noise maps,
are optimised for each image. Here it is a detector: how far the image is from its projection is the score.

As in the paper: w starts at its mean, LPIPS is lowered by 1,000 steps of Adam at a rate of 0.1 that rises at first and
falls at last, noise on the latent is annealed, noise maps are penalised and normalised. Different:

- `space: w+` has a w for each layer (Abdal et al. 2019, https://arxiv.org/abs/1904.03189), `z` is for generators
  without w and starts at 0, the mean of z.
- LPIPS has AlexNet's trunk, not VGG16's, and small pictures are enlarged for it.
- A batch of tiles is one search whose tiles know nothing of each other; noise maps start at the generator's fixed ones.

What it assumes: what is abnormal is further from every picture of a generator of normal tiles than normal tissue is.
"""

from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.inversion import noise_maps
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.descent import Descent, DescentMap
from uadray.detectors.inversion.generator_part import (
    GeneratorField,
    architecture,
    generator_networks,
    steps_for_last,
    with_generators_side,
)
from uadray.detectors.inversion.latent_space import LatentSpace, Pictures, Space, check_space, spaces_of
from uadray.detectors.inversion.picture_distance import LpipsScore, PictureDistance, Residual
from uadray.detectors.inversion.projection_loss import ProjectionLoss, rate_share
from uadray.detectors.inversion.search_training import SearchTraining
from uadray.detectors.inversion.terms import (
    TermConfig,
    TermsScore,
    term_networks,
    term_weights,
)
from uadray.detectors.scores import Score
from uadray.detectors.trainee import Average, Losses
from uadray.generators import stylegan2
from uadray.networks.lpips import Lpips, LpipsNet, lpips_distance
from uadray.networks.outline import Networks

SHOWN_STEPS = 50
"""Of the projections that people look at while the generator is trained."""


class Config(configuration.Config):
    """A projection.

    Attributes:
        input_px: side of the pictures, that of the generator.
        generator: its configuration, or the URI of a trained one, see `uadray.detectors.inversion.generator_part`.
        generator_bundle: where that lay; filled in by a training.
        generator_fraction: share of the steps that train the generator; the others are for `terms`.
        space: of the latents; None: w where the generator has one, else z.
        steps: of the search (paper: 1,000).
        learning_rate: of Adam (paper: 0.1).
        latent_noise: see `ProjectionLoss` (paper: 0.05).
        optimise_noise: search for noise maps too, where the generator has them (paper).
        noise_penalty: see `ProjectionLoss` (paper: 1e5).
        patience: steps without improvement after which a tile is done; 0 makes all steps (paper).
        lpips: trunk of LPIPS (paper: vgg16).
        lpips_px: side to which pictures are brought for LPIPS (paper: 256).
        residual: what the map of a tile shows: LPIPS by place, or the pixels' residual.
        terms: of the score in place of LPIPS, see `uadray.detectors.inversion.terms`.
        normal_tiles: of the training whose projections normalise the terms, of each worker.
        is_lowered: the search multiplies in bfloat16.
    """

    kind: Literal["projection"]
    input_px: int = Field(default=64, ge=16, le=1024)
    generator: GeneratorField = stylegan2.Config(kind="stylegan2", input_px=64)
    generator_bundle: str | None = Field(default=None, min_length=1, max_length=1000)
    generator_fraction: float = Field(default=1.0, gt=0, le=1)
    space: Space | None = None
    steps: int = Field(default=1000, ge=1, le=100_000)
    learning_rate: float = Field(default=0.1, gt=0, le=10)
    latent_noise: float = Field(default=0.05, ge=0, le=10)
    optimise_noise: bool = True
    noise_penalty: float = Field(default=1e5, ge=0, le=1e9)
    patience: int = Field(default=0, ge=0, le=100_000)
    lpips: LpipsNet = "alexnet"
    lpips_px: int = Field(default=64, ge=32, le=512)
    residual: Residual = "lpips"
    terms: tuple[TermConfig, ...] | None = Field(default=None, min_length=1, max_length=16)
    normal_tiles: int = Field(default=256, ge=8, le=100_000)
    is_lowered: bool = False

    @model_validator(mode="before")
    @classmethod
    def _side(cls, values: object) -> object:
        return with_generators_side(values)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        check_space(self.generator, self.space)
        return self

    @property
    def least_steps(self) -> int:
        """Steps of a training in which terms are normalised, after those of a generator that is trained here."""
        left = 1.0 if self.generator_bundle else 1 - self.generator_fraction
        return 1 if self.terms is None or not left else steps_for_last(left)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """LPIPS's trunk and heads, and what the terms need."""
    return tuple(dict.fromkeys((config.lpips, f"lpips_{config.lpips}", *term_weights(config.terms or ()))))


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Those of the generator, `lpips`, and what the terms need; the term `lpips` is on the same trunk.

    Raises:
        InputError: the generator's bundle cannot be opened, or is another than when the training began.
        WorkError: pinned weights cannot be had.
    """
    of_terms = (
        term_networks(config.terms, input_px=config.input_px, pretrained=pretrained) if config.terms is not None else {}
    )
    lpips = of_terms.get("lpips") if config.lpips == "alexnet" else None
    lpips = lpips or lpips_distance(config.lpips, pretrained=pretrained)
    return {**generator_networks(config, pretrained=pretrained), **of_terms, "lpips": lpips}


def space_of(config: Config, networks: Mapping[str, nn.Module]) -> LatentSpace:
    """The latents that are searched."""
    generator = architecture(config)
    space = config.space or ("w" if "w" in spaces_of(generator) else "z")
    return LatentSpace(generator, networks, space)


def projection(config: Config, networks: Mapping[str, nn.Module], *, steps: int | None = None) -> DescentMap:
    """The stage `map`: x -> latents, or (latents, noise maps...) with `optimise_noise`.

    Args:
        config: of the detector.
        networks: as they score.
        steps: in place of the configuration's.
    """
    steps = steps or config.steps
    space = space_of(config, networks)
    loss = ProjectionLoss(
        space, distance_of(config, networks), steps=steps, latent_noise=config.latent_noise,
        noise_penalty=config.noise_penalty, is_lowered=config.is_lowered,
    )  # fmt: skip
    mean, fixed = space.mean(), space.fixed_noise() if config.optimise_noise else []
    return DescentMap(
        space,
        loss,
        Descent(steps=steps, learning_rate=config.learning_rate, patience=config.patience),
        start=lambda x, _: (mean.expand(len(x), *mean.shape), *noise_maps.start(fixed, len(x))),
        rate=lambda step: rate_share(step / steps),
        settle=lambda variables: noise_maps.normalise_(variables[1:]),
        keep="last",
    )


def distance_of(config: Config, networks: Mapping[str, nn.Module]) -> PictureDistance:
    """LPIPS as the search lowers it."""
    return PictureDistance(cast(Lpips, networks["lpips"]), side_px=config.lpips_px)


def score_of(config: Config, networks: Mapping[str, nn.Module]) -> Score:
    """LPIPS, or the sum of the terms."""
    if config.terms is not None:
        return TermsScore(config.terms, networks, CriticPart(architecture(config), networks))
    return LpipsScore(distance_of(config, networks), residual=config.residual)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """The search, the generator, LPIPS."""
    return assemble(
        networks,
        mapping=lambda placed: projection(config, placed),
        reconstruct=lambda placed: Pictures(space_of(config, placed)),
        score=lambda placed: score_of(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages, searches=True,
    )  # fmt: skip


class Trainee(SearchTraining):
    """The generator, if it is trained here; then some tiles are projected to normalise the terms, if there are any."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        super().__init__(config, networks, average=average)
        self.config = config

    @torch.no_grad()
    def closest(self, x: Tensor, *, is_brief: bool = False) -> Tensor:
        """Projections of all steps, or of `SHOWN_STEPS` at the most."""
        steps = min(SHOWN_STEPS, self.config.steps) if is_brief else None
        return Pictures(space_of(self.config, self.networks))(projection(self.config, self.networks, steps=steps)(x))

    @torch.no_grad()
    def at_start(self, x: Tensor) -> Losses:
        """LPIPS of tiles to the picture of the mean latent."""
        space, distance = space_of(self.config, self.networks), distance_of(self.config, self.networks)
        mean = space.mean()[None]
        features = (distance.features(each) for each in (x, space.pictures(mean).expand_as(x)))
        return {"lpips_at_start": distance(*features).mean()}
