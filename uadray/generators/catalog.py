"""Every generator by its configuration: a union, one member a line, and one `match`, one case a line.

A generator is one file with four names: `Config`, `networks`, `Trainee` and `borrowed_weights`; what they are is said
in `uadray.detectors.catalog`, whose files have a fifth.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Protocol

from pydantic import Field
from torch import Tensor

from uadray.generators import pgan, stylegan, wgan_gp
from uadray.networks.outline import Networks, outline

GeneratorConfig = Annotated[pgan.Config | stylegan.Config | wgan_gp.Config, Field(discriminator="kind")]


class GeneratorFile(Protocol):
    """The names that the file of a generator has."""

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


def file_of(config: GeneratorConfig) -> GeneratorFile:
    """The file of a generator."""
    match config:
        case pgan.Config():
            return pgan
        case stylegan.Config():
            return stylegan
        case wgan_gp.Config():
            return wgan_gp


def outline_of(config: GeneratorConfig) -> Networks:
    """The networks as shapes alone, see `uadray.networks.outline`.

    Raises:
        InputError: they are too large together.
    """
    return outline(lambda: file_of(config).networks(config, pretrained=False), name=f"generator {config.kind}")
