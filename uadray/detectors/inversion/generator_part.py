"""The generator within a detector: trained with it, or taken from a bundle.

A detector over a generator has these fields in its configuration, beside its own:

    input_px            that of the generator, and taken from it where it is not given
    generator           the generator's configuration: it is trained first, by `generator_fraction` of the steps; or the
                        URI of a trained one's bundle, which stands still
    generator_bundle    that URI, once `uadray.training.given` has put the configuration of the bundle in its place
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray.detectors.trainee import Average, Losses
from uadray.errors import InputError
from uadray.generators.bundle import load_generator, read_generator
from uadray.generators.catalog import GeneratorConfig, file_of
from uadray.networks.outline import Networks

BundleUri = Annotated[str, Field(min_length=1, max_length=1000)]

GeneratorField = BundleUri | GeneratorConfig

NAMES = ("generator", "critic", "discriminator", "average", "augmentation")
"""Of the networks of any generator, by which a detector has them beside its own."""

LEAST_PX = 16
"""Of any generator; the side of a detector whose generator's bundle has not been read yet."""


class HasGenerator(Protocol):
    """A configuration with the fields above; of f-AnoGAN both may be None."""

    @property
    def generator(self) -> GeneratorConfig | str | None:
        """See the module."""
        ...

    @property
    def generator_bundle(self) -> str | None:
        """See the module."""
        ...


def with_generators_side(values: Any) -> Any:
    """The values of a configuration with the `input_px` of its generator, for a validator that runs before others.

    Raises:
        ValueError: it says another side.
    """
    if not isinstance(values, Mapping):
        return values
    generator = values.get("generator")
    if isinstance(generator, str):
        return {"input_px": LEAST_PX, **values}
    side = generator.get("input_px") if isinstance(generator, Mapping) else getattr(generator, "input_px", None)
    if side is None:
        return values
    if values.get("input_px", side) != side:
        raise ValueError(f"input_px {values['input_px']} is not that of the generator, {side}; leave it out")
    return {**values, "input_px": side}


def architecture(config: HasGenerator) -> GeneratorConfig:
    """The generator's configuration.

    Raises:
        InputError: it is not known: the bundle has not been read.
    """
    if config.generator is None or isinstance(config.generator, str):
        raise InputError(
            f"generator {config.generator}: its architecture is not known; `uadray train` reads it from its bundle"
        )
    return config.generator


def with_generator(config: BaseModel, uri: str) -> dict[str, Any]:
    """The values of a configuration of the generator in a bundle: its architecture, its side, and where it lies.

    Raises:
        InputError: no generator's bundle lies there, or it draws at another side than asked for.
    """
    theirs = read_generator(uri).generator
    values = config.model_dump()
    asked = values.get("input_px") if "input_px" in config.model_fields_set else None
    if asked not in (None, LEAST_PX, theirs.input_px):
        raise InputError(f"generator {uri} draws {theirs.input_px} px; leave out detector.input_px (it is {asked})")
    return values | {"input_px": theirs.input_px, "generator": theirs.model_dump(), "generator_bundle": uri}


def generator_networks(config: HasGenerator, *, pretrained: bool) -> Networks:
    """The generator's networks by the names in its file, those of its bundle where one is given and `pretrained`.

    Raises:
        InputError: the bundle cannot be opened, or has another generator than when this training began.
    """
    generator = architecture(config)
    if not (pretrained and config.generator_bundle):
        return file_of(generator).networks(generator, pretrained=pretrained)
    bundle = read_generator(config.generator_bundle)
    if bundle.generator != generator:
        raise InputError(
            f"generator {config.generator_bundle} is another than when this training began; train into another --out"
        )
    return load_generator(config.generator_bundle, bundle)


def steps_for_last(share: float) -> int:
    """Steps of a training whose last `share` has one at the least.

    >>> steps_for_last(0.05)
    21
    """
    return math.ceil(1 / share) + 1


class GeneratorTraining:
    """The first part of a detector's training, that of its generator; over before it begins where one is given.

    Attributes:
        trainee: the generator in training.
        phases: of it; none where it is given.
        optimizers: of it, by name; none where it is given.
        counts: of it. A detector that has it as its own lets `images_shown` reach the generator.

    Args:
        config: of the detector.
        networks: of the detector, the generator's among them.
        average: see `uadray.detectors.trainee`.
        fraction: of the steps.
        leaves: what needs steps after it, for the words of an error; "" where nothing does.
        until: share of the steps at which that is over.

    Raises:
        InputError: no steps are left.
    """

    def __init__(
        self, config: HasGenerator, networks: Networks, *, average: Average, fraction: float, leaves: str = "",
        until: float = 1.0,
    ) -> None:  # fmt: skip
        generator = architecture(config)
        self.is_given = config.generator_bundle is not None
        self.fraction = 0.0 if self.is_given else fraction
        if leaves and self.fraction >= until:
            raise InputError(
                f"generator_fraction {fraction:g} leaves no steps to {leaves}; set detector.generator_fraction below "
                f"{until:g}"
            )
        own = {name: network for name, network in networks.items() if name in NAMES}  # one that grows moves all it has
        self.trainee = file_of(generator).Trainee(generator, own, average=average)
        self.phases: tuple[str, ...] = () if self.is_given else self.trainee.phases
        self.optimizers: dict[str, Optimizer] = {} if self.is_given else self.trainee.optimizers
        self.counts: dict[str, int] = self.trainee.counts

    def is_training(self, progress: float) -> bool:
        """Whether a step at this progress of the detector's training is the generator's."""
        return progress < self.fraction

    def phase(self, progress: float) -> str:
        """The generator's phase."""
        phase: str = self.trainee.phase(self._own(progress))
        return phase

    def learning_rate(self, progress: float) -> str:
        """The field of the detector's configuration that the networks learn by."""
        return f"generator.{self.trainee.learning_rate(self._own(progress))}"

    def prepare(self, x: Tensor) -> None:
        """What the generator does before its first step."""
        if not self.is_given:
            self.trainee.prepare(x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of the generator."""
        losses: Losses = self.trainee.step(x, self._own(progress))
        return losses

    def finish(self) -> None:
        """What the generator does after its last step."""
        if not self.is_given:
            self.trainee.finish()

    def _own(self, progress: float) -> float:
        return min(1.0, progress / self.fraction) if self.fraction else 1.0


def frozen(networks: Mapping[str, nn.Module]) -> None:
    """Put networks into evaluation mode, their weights without gradients: as they score."""
    for network in networks.values():
        network.eval().requires_grad_(False)
