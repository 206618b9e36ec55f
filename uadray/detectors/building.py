"""Detectors of every kind, built from their configurations: those of the catalog, and several of them as one."""

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import Field
from torch import nn

from uadray.detectors import catalog, combined, trainee
from uadray.detectors.catalog import DetectorFile, SingleConfig
from uadray.detectors.detector import STAGES, Detector, Stage
from uadray.networks.outline import Networks, outline

DetectorConfig = Annotated[SingleConfig | combined.Config, Field(discriminator="kind")]


def file_of(config: DetectorConfig) -> DetectorFile:
    """The file of a detector."""
    if isinstance(config, combined.Config):
        return combined
    return catalog.file_of(config)


def build_networks(config: DetectorConfig, *, pretrained: bool = True) -> Networks:
    """The networks of a detector, by name, untrained.

    Args:
        config: which and how large.
        pretrained: load what others have trained; False where a bundle's own weights follow.

    Raises:
        InputError: see `outline_of`.
    """
    outline_of(config)
    return file_of(config).networks(config, pretrained=pretrained)


def outline_of(config: DetectorConfig) -> Networks:
    """The networks as shapes alone, see `uadray.networks.outline`.

    Raises:
        InputError: they are too large together, or cannot be built (the backbone has no such layer).
    """
    return outline(lambda: file_of(config).networks(config, pretrained=False), name=f"detector {config.kind}")


def build_detector(
    config: DetectorConfig, networks: Mapping[str, nn.Module], *, device: str = "cpu", batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Put trained networks in their places; arguments as of `uadray.detectors.detector.assemble`."""
    return file_of(config).detector(config, networks, device=device, batch_tiles=batch_tiles, stages=stages)


def build_trainee(
    config: DetectorConfig, networks: Networks, *, average: trainee.Average = trainee.alone
) -> trainee.Trainee:
    """A detector in training, of its networks."""
    return file_of(config).Trainee(config, networks, average=average)
