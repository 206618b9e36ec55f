"""Every generator by its configuration: a union, one member a line, and one `match`, one case a line.

A generator is one file with the names below. To add one, write the file, and here its import, its line in the union and
its case:

    Config            frozen pydantic model with `kind: Literal[...]`, `input_px`, `latent_dim`; every size is bounded
    networks          its networks by name, untrained: `generator`, what tells its pictures from real ones (`critic` or
                      `discriminator`), and `average`, the generator's exponential average, where the paper has one
    borrowed_weights  names of the pinned weights that it needs
    Trainee           the generator in training, see `uadray.detectors.trainee`
    latents           draws z from the distribution of the training
    styles            z -> what pictures are drawn from
    pictures          that -> pictures
    unbounded         the same before they are cut to [-1, 1], for who follows their gradients
    noise_maps        the maps of noise that pictures are drawn with, where there are any
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from uadray.generators import (
    dcgan,
    pgan,
    stylegan,
    stylegan2,
    wgan_gp,
)
from uadray.networks.outline import Networks, outline

GeneratorConfig = Annotated[
    dcgan.Config  # with `|`, one a line
    | pgan.Config
    | stylegan.Config
    | stylegan2.Config
    | wgan_gp.Config,
    Field(discriminator="kind"),
]


class GeneratorFile(Protocol):
    """The names that the file of a generator has, beside `Config`."""

    def networks(self, config: Any, *, pretrained: bool) -> Networks:
        """The networks by name."""
        ...

    def Trainee(  # noqa: N802  # a class in the file
        self, config: Any, networks: Networks, *, average: Callable[[Iterable[Tensor]], None]
    ) -> Any:
        """A generator in training."""
        ...

    def borrowed_weights(self, config: Any) -> tuple[str, ...]:
        """Names of the pinned weights that it needs."""
        ...

    def latents(self, config: Any, n: int, *, rng: torch.Generator) -> Tensor:
        """Latents z [n, latent_dim] on the CPU."""
        ...

    def styles(self, config: Any, networks: Networks, z: Tensor, *, truncation: float = 1.0) -> Tensor:
        """What pictures are drawn from: z itself, or w [n, layers, w_dim], truncated towards the mean w.

        Raises:
            InputError: `truncation` is not 1 where there is no w.
        """
        ...

    def pictures(self, config: Any, networks: Networks, styles: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in [-1, 1], of `average` if there is one, in evaluation mode.

        The same at every call, each independent of its batch, and differentiable in the styles.
        """
        ...

    def unbounded(
        self, config: Any, networks: Networks, styles: Tensor, *, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """As `pictures`, not cut to [-1, 1]: what lies outside has a gradient too.

        Args:
            config: of the generator.
            networks: of it.
            styles: see `styles`.
            noise: maps in place of `noise_maps`, each for all pictures or with n maps.
        """
        ...

    def noise_maps(self, config: Any, networks: Networks) -> list[Tensor]:
        """The maps of noise that `pictures` draws with, one a layer; none where a generator has no noise."""
        ...


def file_of(config: GeneratorConfig) -> GeneratorFile:
    """The file of a generator."""
    match config:
        case dcgan.Config():
            return dcgan
        case pgan.Config():
            return pgan
        case stylegan.Config():
            return stylegan
        case stylegan2.Config():
            return stylegan2
        case wgan_gp.Config():
            return wgan_gp


def outline_of(config: GeneratorConfig) -> Networks:
    """The networks as shapes alone, see `uadray.networks.outline`.

    Raises:
        InputError: they are too large together.
    """
    return outline(lambda: file_of(config).networks(config, pretrained=False), name=f"generator {config.kind}")
