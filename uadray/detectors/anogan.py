"""AnoGAN. https://arxiv.org/abs/1703.05921 .

Schlegl et al. 2017, "Unsupervised anomaly detection with generative adversarial networks to guide marker discovery".

As in the paper: a DCGAN learns normal tiles; of a tile x the latent z is searched for whose picture is closest, by 500
steps down the gradient of (1 - lambda) R + lambda D with lambda 0.1, where R compares pixels (eq. 3) and D the maps
before the discriminator's output (eq. 5); that loss is the score A(x) (eq. 7), and |x - G(z)| the map. R and D alone
are scores too, and so are what the paper compares with: P_D, the discriminator's word of x, for which nothing is
searched, and GAN_R, with the discrimination loss of Yeh et al. 2016 (https://arxiv.org/abs/1607.07539) in place of D,
in the search as in the score.

Different: R and D are means, not sums, so that lambda does not depend on the sides of maps; tiles have three colours;
the search is Adam's, its rate and starts see `uadray.detectors.inversion.descent`. Any generator may be taken: the word
of a Wasserstein critic is a value, not a probability. The paper's text could not be opened: sections and equations are
from memory.

What it assumes: what is abnormal is not among the pictures of a generator of normal tiles, and the closest of them
lacks it.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.descent import Descent, DescentMap
from uadray.detectors.inversion.generator_part import (
    GeneratorField,
    architecture,
    generator_networks,
    steps_for_last,
    with_generators_side,
)
from uadray.detectors.inversion.latent_space import LatentSpace, Pictures, Space, check_space
from uadray.detectors.inversion.mapping_loss import MappingLoss
from uadray.detectors.inversion.mapping_scores import AnoganScore, DiscriminatorScore, ScoreName
from uadray.detectors.inversion.search_training import SearchTraining
from uadray.detectors.inversion.terms import (
    TermConfig,
    TermsScore,
    term_networks,
    term_weights,
)
from uadray.detectors.scores import Score
from uadray.detectors.trainee import Average, Losses
from uadray.generators import dcgan
from uadray.networks.outline import Networks

SHOWN_STEPS = 50
"""Of the searches whose results people look at while the generator is trained."""


class Config(configuration.Config):
    """AnoGAN.

    Attributes:
        input_px: side of the pictures, that of the generator.
        generator: its configuration, or the URI of a trained one, see `uadray.detectors.inversion.generator_part`.
        generator_bundle: where that lay; filled in by a training.
        generator_fraction: share of the steps that train the generator; the others are for `terms`.
        space: of the latents (paper: z).
        descent: how a latent is searched for.
        discrimination: lambda, the share of the discrimination loss (paper: 0.1).
        score: `anomaly` A(x), `residual` R(x), `discrimination` D(x), `discriminator` P_D, `reference` GAN_R.
        terms: of the score in its place, see `uadray.detectors.inversion.terms`.
        normal_tiles: of the training that are mapped to normalise the terms, of each worker.
    """

    kind: Literal["anogan"]
    input_px: int = Field(default=64, ge=16, le=1024)
    generator: GeneratorField = dcgan.Config(kind="dcgan", input_px=64)
    generator_bundle: str | None = Field(default=None, min_length=1, max_length=1000)
    generator_fraction: float = Field(default=1.0, gt=0, le=1)
    space: Space = "z"
    descent: Descent = Descent()
    discrimination: float = Field(default=0.1, ge=0, le=1)
    score: ScoreName = "anomaly"
    terms: tuple[TermConfig, ...] | None = Field(default=None, min_length=1, max_length=16)
    normal_tiles: int = Field(default=256, ge=8, le=100_000)

    @model_validator(mode="before")
    @classmethod
    def _side(cls, values: object) -> object:
        return with_generators_side(values)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.terms and self.score != "anomaly":
            raise ValueError(
                f"terms take the place of the score; leave out score {self.score} (term kinds name it too)"
            )
        check_space(self.generator, self.space)
        return self

    @property
    def least_steps(self) -> int:
        """Steps of a training in which terms are normalised, after those of a generator that is trained here."""
        left = 1.0 if self.generator_bundle else 1 - self.generator_fraction
        return 1 if self.terms is None or not left else steps_for_last(left)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """What the terms need."""
    return term_weights(config.terms or ())


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Those of the generator, and what the terms need.

    Raises:
        InputError: the generator's bundle cannot be opened, or is another than when the training began.
        WorkError: pinned weights cannot be had.
    """
    terms = config.terms or ()
    of_terms = term_networks(terms, input_px=config.input_px, pretrained=pretrained) if terms else {}
    return {**generator_networks(config, pretrained=pretrained), **of_terms}


def space_of(config: Config, networks: Mapping[str, nn.Module]) -> LatentSpace:
    """The latents that are searched."""
    return LatentSpace(architecture(config), networks, config.space)


def loss_of(config: Config, networks: Mapping[str, nn.Module]) -> MappingLoss:
    """What the search lowers."""
    return MappingLoss(
        space_of(config, networks),
        CriticPart(architecture(config), networks),
        share=config.discrimination,
        discrimination="reference" if config.score == "reference" else "features",
    )


def mapping(config: Config, networks: Mapping[str, nn.Module], *, steps: int | None = None) -> DescentMap:
    """The stage `map`: x -> z [n, ...].

    Args:
        config: of the detector.
        networks: as they score.
        steps: in place of the configuration's.
    """
    sizes = config.descent if steps is None else config.descent.model_copy(update={"steps": steps})
    return DescentMap(space_of(config, networks), loss_of(config, networks), sizes)


def score_of(config: Config, networks: Mapping[str, nn.Module]) -> Score:
    """The stage `score`."""
    critic = CriticPart(architecture(config), networks)
    if config.terms is not None:
        return TermsScore(config.terms, networks, critic)
    return DiscriminatorScore(critic) if _is_word(config) else AnoganScore(loss_of(config, networks), config.score)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """The search, the generator, the score. P_D looks at tiles alone: it has no search, and no picture."""
    has_picture = not _is_word(config)
    return assemble(
        networks,
        mapping=lambda placed: mapping(config, placed) if has_picture else lambda x: x.new_zeros(len(x), 0),
        reconstruct=(lambda placed: Pictures(space_of(config, placed))) if has_picture else no_picture,
        score=lambda placed: score_of(config, placed),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages, searches=has_picture,
    )  # fmt: skip


def _is_word(config: Config) -> bool:
    return config.terms is None and config.score == "discriminator"


class Trainee(SearchTraining):
    """The generator, if it is trained here; then some tiles are mapped to normalise the terms, if there are any."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        super().__init__(config, networks, average=average)
        self.config = config

    @torch.no_grad()
    def closest(self, x: Tensor, *, is_brief: bool = False) -> Tensor:
        """Pictures of what is found in all steps, or in `SHOWN_STEPS` at the most."""
        steps = min(SHOWN_STEPS, self.config.descent.steps) if is_brief else None
        return Pictures(space_of(self.config, self.networks))(mapping(self.config, self.networks, steps=steps)(x))

    def at_start(self, x: Tensor) -> Losses:
        """The loss of the searches' starts."""
        return {"loss_at_start": mapping(self.config, self.networks, steps=0).search(x).loss.mean()}
