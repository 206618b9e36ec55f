"""Hybrid: an encoder finds where to start, a short projection goes on. https://doi.org/10.1016/j.media.2019.01.010 .

f-AnoGAN (Schlegl et al. 2019) has an encoder and stops there: its pictures are close, but not the closest. StyleGAN2's
projection (Karras et al. 2020, https://arxiv.org/abs/1912.04958, appendix D) finds closer ones in a thousand steps from
the mean w. Here an encoder into W+ (`uadray.networks.style_encoder`, after pSp and e4e) is trained against the frozen
generator, and its latents are where a projection of some tens of steps begins. Of a generator without w it maps into z.

The encoder lowers izi_f (Schlegl et al. 2019, eq. 4: residual of the image, and kappa times that of the discriminator's
features), LPIPS, and the deviation of the layers' offsets from each other (e4e, Tov et al. 2021,
https://arxiv.org/abs/2102.02766, section 4: latents of one w for all layers are those that the generator has learned
to draw). Different:

- e4e penalises the distance of each layer's w from that of the first; here it is that from the mean over the layers.
- e4e has a discriminator of latents besides, and both have losses of faces; neither is here.
- The projection starts at the encoder's latents in place of the mean w: no noise is added to them, they move along the
  axes of `uadray.detectors.inversion.axes`, at four times the rate, noise maps stand still unless asked for, and the
  best of all steps is kept.

What it assumes: what is abnormal is further from every picture of a generator of normal tiles than normal tissue is.
"""

from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.inversion import noise_maps
from uadray.detectors.inversion.axes import AlongAxes, Axes, LatentsFound
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.descent import Descent, DescentMap
from uadray.detectors.inversion.generator_part import (
    GeneratorField,
    GeneratorTraining,
    architecture,
    frozen,
    generator_networks,
    steps_for_last,
    with_generators_side,
)
from uadray.detectors.inversion.latent_space import LatentSpace, Pictures, Space, check_space, spaces_of
from uadray.detectors.inversion.picture_distance import LpipsScore, PictureDistance, Residual
from uadray.detectors.inversion.projection_loss import ProjectionLoss, rate_share
from uadray.detectors.inversion.style_encoding import StyleEncoding
from uadray.detectors.inversion.terms import (
    NormalsFit,
    TermConfig,
    TermsScore,
    prepare_terms,
    term_networks,
    term_weights,
)
from uadray.detectors.latents import EncoderMap, Latent, LatentMap
from uadray.detectors.scores import Score
from uadray.detectors.trainee import Average, Losses
from uadray.generators import stylegan2
from uadray.networks.lpips import Lpips, lpips_distance
from uadray.networks.outline import Networks
from uadray.networks.style_encoder import StyleEncoder


class Config(configuration.Config):
    """A hybrid.

    Attributes:
        input_px: side of the pictures, that of the generator.
        generator: its configuration, or the URI of a trained one, see `uadray.detectors.inversion.generator_part`.
        generator_bundle: where that lay; filled in by a training.
        generator_fraction: share of the steps that train the generator, where none is given; then the encoder learns.
        space: of the latents; None: w+ where the generator has one, else z.
        width: channels of the encoder at full resolution.
        channel_max: its channels double with each halving, but are no more than this.
        kappa: weight of the discriminator's features (paper: 1).
        lpips_weight: weight of LPIPS.
        offset_weight: weight of the deviation of the layers' offsets from each other, in units of the generator's own.
        encoder_learning_rate: of Adam; the last `SLOW_SHARE` of the encoder's steps take a tenth.
        steps: of the projection; 0 leaves a tile at the encoder's latent.
        learning_rate: of the projection's Adam; its rate goes as in `projection_loss.rate_share`.
        optimise_noise: search for noise maps too, where the generator has them (in tens of steps they help nothing).
        noise_penalty: see `ProjectionLoss`.
        patience: steps without improvement after which a tile is done; 0 makes all steps.
        lpips_px: side to which pictures are brought for LPIPS.
        residual: what the map of a tile shows: LPIPS by place, or the pixels' residual.
        terms: of the score in place of LPIPS, see `uadray.detectors.inversion.terms`.
        normals_fraction: last share of the steps, in which tiles are mapped to normalise the terms, if there are any.
    """

    kind: Literal["hybrid"]
    input_px: int = Field(default=64, ge=16, le=1024)
    generator: GeneratorField = stylegan2.Config(kind="stylegan2", input_px=64)
    generator_bundle: str | None = Field(default=None, min_length=1, max_length=1000)
    generator_fraction: float = Field(default=0.7, gt=0, lt=1)
    space: Space | None = None
    width: int = Field(default=16, ge=2, le=256)
    channel_max: int = Field(default=256, ge=2, le=1024)
    kappa: float = Field(default=1.0, ge=0, le=1e6)
    lpips_weight: float = Field(default=1.0, ge=0, le=1e6)
    offset_weight: float = Field(default=0.0, ge=0, le=1e6)
    encoder_learning_rate: float = Field(default=3e-3, gt=0, le=10)
    steps: int = Field(default=50, ge=0, le=10_000)
    learning_rate: float = Field(default=0.4, gt=0, le=10)
    optimise_noise: bool = False
    noise_penalty: float = Field(default=1e5, ge=0, le=1e9)
    patience: int = Field(default=0, ge=0, le=10_000)
    lpips_px: int = Field(default=64, ge=32, le=512)
    residual: Residual = "pixels"
    terms: tuple[TermConfig, ...] | None = Field(default=None, min_length=1, max_length=16)
    normals_fraction: float = Field(default=0.05, gt=0, lt=1)

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
        """Steps of a training in which terms are normalised."""
        return 1 if self.terms is None else steps_for_last(self.normals_fraction)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """LPIPS's trunk and heads, and what the terms need."""
    return tuple(dict.fromkeys(("alexnet", "lpips_alexnet", *term_weights(config.terms or ()))))


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Those of the generator, an untrained `encoder` and its `axes`, `lpips`, and what the terms need.

    Raises:
        InputError: the generator's bundle cannot be opened, or is another than when the training began.
        WorkError: pinned weights cannot be had.
    """
    given = generator_networks(config, pretrained=pretrained)
    shape = space_of(config, given).shape
    encoder = StyleEncoder(
        input_px=config.input_px, width=config.width, channel_max=config.channel_max, shape=shape
    )  # fmt: skip
    of_terms = term_networks(config.terms, input_px=config.input_px, pretrained=pretrained) if config.terms else {}
    lpips = of_terms.get("lpips") or lpips_distance("alexnet", pretrained=pretrained)
    return {**given, "encoder": encoder, "axes": Axes(shape), **of_terms, "lpips": lpips}


def space_of(config: Config, networks: Mapping[str, nn.Module]) -> LatentSpace:
    """The latents that the encoder maps to, and that are searched."""
    generator = architecture(config)
    return LatentSpace(generator, networks, config.space or ("w+" if "w+" in spaces_of(generator) else "z"))


def distance_of(config: Config, networks: Mapping[str, nn.Module]) -> PictureDistance:
    """LPIPS."""
    return PictureDistance(cast(Lpips, networks["lpips"]), side_px=config.lpips_px)


def mapping(config: Config, networks: Mapping[str, nn.Module], *, steps: int | None = None) -> LatentMap:
    """The stage `map`: x -> the encoder's latents, or what a search that starts there has found.

    Args:
        config: of the detector.
        networks: as they score.
        steps: in place of the configuration's.
    """
    encoder, steps = networks["encoder"], config.steps if steps is None else steps
    if steps == 0:
        return EncoderMap(encoder)
    space, axes = space_of(config, networks), cast(Axes, networks["axes"])
    loss = ProjectionLoss(
        space, distance_of(config, networks), steps=steps, latent_noise=0.0, noise_penalty=config.noise_penalty
    )
    fixed = space.fixed_noise() if config.optimise_noise else []
    search = DescentMap(
        space,
        AlongAxes(loss, axes),
        Descent(steps=steps, learning_rate=config.learning_rate, patience=config.patience),
        start=lambda x, _: (axes.along(encoder(x)), *noise_maps.start(fixed, len(x))),
        rate=lambda step: rate_share((step + 0.5) / steps),
        settle=lambda variables: noise_maps.normalise_(variables[1:]),
    )
    return LatentsFound(search, axes)


def score_of(config: Config, networks: Mapping[str, nn.Module]) -> Score:
    """LPIPS, or the sum of the terms."""
    if config.terms is not None:
        return TermsScore(config.terms, networks, CriticPart(architecture(config), networks))
    return LpipsScore(distance_of(config, networks), residual=config.residual)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder and search, generator, LPIPS."""
    return assemble(
        networks,
        mapping=lambda placed: mapping(config, placed),
        reconstruct=lambda placed: Pictures(space_of(config, placed)),
        score=lambda placed: score_of(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
        searches=config.steps > 0,
    )  # fmt: skip


class Trainee:
    """The generator, if it is trained here; the encoder; and if the score has terms, what normal tiles have of them."""

    captured = ("encoder_step",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.encoder_until = 1.0 if config.terms is None else 1 - config.normals_fraction
        self.generator = GeneratorTraining(
            config, networks, average=average, fraction=config.generator_fraction, leaves="the encoder",
            until=self.encoder_until,
        )  # fmt: skip
        self.encoding = StyleEncoding(
            cast(StyleEncoder, networks["encoder"]), cast(Axes, networks["axes"]), space=space_of(config, networks),
            critic=CriticPart(architecture(config), networks), distance=distance_of(config, networks),
            kappa=config.kappa, lpips_weight=config.lpips_weight, offset_weight=config.offset_weight,
            learning_rate=config.encoder_learning_rate, average=average,
        )  # fmt: skip
        self.fit = None
        if config.terms is not None:
            self.fit = NormalsFit(config.terms, networks, CriticPart(architecture(config), networks))
        self.parts = (self.generator.trainee,)
        self.optimizers: dict[str, Optimizer] = {**self.generator.optimizers, "encoder": self.encoding.optimizer}
        self.counts = self.generator.counts
        self.counts.update({"encoder_has_begun": 0, "axes_are_fitted": 0} | self.counts)
        self.encoder_from = self.generator.fraction
        self.phases = (*self.generator.phases, "encoder", *(() if self.fit is None else ("normals",)))

    def phase(self, progress: float) -> str:
        """The generator's phases, then `encoder`, then `normals` where there are terms."""
        if self.generator.is_training(progress):
            return self.generator.phase(progress)
        return "encoder" if progress < self.encoder_until or self.fit is None else "normals"

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the networks of this phase learn by."""
        if self.generator.is_training(progress):
            return self.generator.learning_rate(progress)
        return "encoder_learning_rate" if self.phase(progress) == "encoder" else ""

    def prepare(self, x: Tensor) -> None:
        """What generator and terms do before the first step."""
        self.generator.prepare(x)
        prepare_terms(self.networks, x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of the generator, or of the encoder; or tiles are mapped for the terms."""
        if self.generator.is_training(progress):
            return self.generator.step(x, progress)
        encoder = self.networks["encoder"]
        frozen({name: network for name, network in self.networks.items() if network is not encoder})
        if self.phase(progress) == "normals" and self.fit is not None:
            self._fit_axes()
            return self._normals(self.fit, x)
        encoder.requires_grad_(True).train()
        if not self.counts["encoder_has_begun"]:
            self.encoding.begin()
            self.counts["encoder_has_begun"] = 1
        self.encoding.pace((progress - self.encoder_from) / (self.encoder_until - self.encoder_from))
        return self.encoder_step(x)

    def encoder_step(self, x: Tensor) -> dict[str, Tensor]:
        """A step of the encoder on x [N, 3, h, w] in [-1, 1]; the losses by name."""
        torch.clear_autocast_cache()  # it has the encoder as it was before the last step
        return self.encoding.step(x)

    def finish(self) -> None:
        """What the generator does after its last step; the axes; the terms' means and deviations."""
        self.generator.finish()
        self._fit_axes()
        if self.fit is not None:
            self.fit.finish(self.average)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The pictures of the encoder's latents: of the mean w while there is no encoder yet."""
        with torch.no_grad():
            return self._pictures(EncoderMap(self.networks["encoder"])(x))

    def _fit_axes(self) -> None:
        """Once, after the last step of the encoder; all workers have the same moment."""
        if not self.counts["axes_are_fitted"]:
            self.encoding.axes.fit()
            self.counts["axes_are_fitted"] = 1

    def _normals(self, fit: NormalsFit, x: Tensor) -> Losses:
        frozen(self.networks)
        return fit.see(x, lambda x: self._pictures(mapping(self.config, self.networks)(x)), self.average)

    def _pictures(self, z: Latent) -> Tensor:
        return Pictures(space_of(self.config, self.networks))(z)
