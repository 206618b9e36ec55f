"""The training of a detector whose map is a search: its generator, if none is given, then what normal tiles have.

A search learns nothing. What is left after the generator is to map some normal tiles, so that the terms of a score can
be normalised; where it has none, tiles are compared with the pictures that their searches start from.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.generator_part import GeneratorTraining, HasGenerator, architecture, frozen
from uadray.detectors.inversion.terms import NormalsFit, TermConfig, prepare_terms
from uadray.detectors.trainee import Average, Losses
from uadray.networks.outline import Networks


class HasSearch(HasGenerator, Protocol):
    """A configuration whose tiles are searched for."""

    @property
    def generator_fraction(self) -> float:
        """Share of the steps that train the generator, where it is trained here."""
        ...

    @property
    def terms(self) -> Sequence[TermConfig] | None:
        """Of the score."""
        ...

    @property
    def normal_tiles(self) -> int:
        """Of the training whose searches normalise the terms, of each worker."""
        ...


class SearchTraining(ABC):
    """See the module; other members: see `uadray.detectors.trainee`.

    Raises:
        InputError: no steps are left to normalise the terms.
    """

    def __init__(self, config: HasSearch, networks: Networks, *, average: Average) -> None:
        self.networks, self.average, self._normal_tiles = networks, average, config.normal_tiles
        self.generator = GeneratorTraining(
            config, networks, average=average, fraction=config.generator_fraction,
            leaves="normalise the terms" if config.terms else "",
        )  # fmt: skip
        self.parts = (self.generator.trainee,)
        self.optimizers = self.generator.optimizers
        self.counts = self.generator.counts
        self.counts.setdefault("normal_tiles", 0)
        self._fit: NormalsFit | None = None
        if config.terms is not None:
            self._fit = NormalsFit(config.terms, networks, CriticPart(architecture(config), networks))
        last = () if self.generator.is_training(1 - 1e-9) else (("start",) if self._fit is None else ("normals",))
        self.phases: tuple[str, ...] = (*self.generator.phases, *last)

    @abstractmethod
    def closest(self, x: Tensor, *, is_brief: bool = False) -> Tensor:
        """Pictures that searches for x [N, 3, h, w] find; brief ones are for people, who look at them often."""

    @abstractmethod
    def at_start(self, x: Tensor) -> Losses:
        """How far x [N, 3, h, w] is from where its searches start."""

    def phase(self, progress: float) -> str:
        """The generator's phases, then `normals` where there are terms; `start` where nothing is left to learn."""
        return self.generator.phase(progress) if self.generator.is_training(progress) else self.phases[-1]

    def learning_rate(self, progress: float) -> str:
        """Of the generator; the search has none that could diverge in training."""
        return self.generator.learning_rate(progress) if self.generator.is_training(progress) else ""

    def prepare(self, x: Tensor) -> None:
        """What generator and terms do before the first step."""
        self.generator.prepare(x)
        prepare_terms(self.networks, x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of the generator; or searches for the terms, or how far tiles are from where searches start."""
        if self.generator.is_training(progress):
            return self.generator.step(x, progress)
        frozen(self.networks)
        if self._fit is None:
            return self.at_start(x)
        x = x[: self._normal_tiles - self.counts["normal_tiles"]]  # no more than are needed, as many on every worker
        if not len(x):
            return {}
        self.counts["normal_tiles"] += len(x)
        return self._fit.see(x, self.closest, self.average)

    def finish(self) -> None:
        """What the generator does after its last step; the terms' means and deviations."""
        self.generator.finish()
        if self._fit is not None:
            self._fit.finish(self.average)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """What brief searches find."""
        return self.closest(x, is_brief=True)
