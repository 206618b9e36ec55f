"""Every detector by its configuration: a union, one member a line, and one `match`, one case a line.

A detector is one file with five names. To add one, write the file and add its two lines below:

    Config            frozen pydantic model with `kind: Literal[...]` and `input_px`; every size in it is bounded
    networks          its networks by name, untrained; `pretrained` loads what others trained (a backbone, a generator)
    borrowed_weights  names of the pinned weights that it needs, pulled before a training and named with their licences
    Trainee           the detector in training, see `uadray.detectors.trainee`
    detector          its three stages with trained networks in them, see `uadray.detectors.detector`
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Protocol

from pydantic import Field
from torch import nn

from uadray.detectors import dpa, enlarged_nuclei, fanogan, trainee
from uadray.detectors.detector import STAGES, Detector, Stage
from uadray.networks.outline import Networks, outline

DetectorConfig = Annotated[
    dpa.Config  # with `|`, one a line
    | enlarged_nuclei.Config
    | fanogan.Config,
    Field(discriminator="kind"),
]


class DetectorFile(Protocol):
    """The names that the file of a detector has, beside `Config`."""

    def networks(self, config: Any, *, pretrained: bool) -> Networks:
        """The networks by name."""
        ...

    def borrowed_weights(self, config: Any) -> tuple[str, ...]:
        """Names of the pinned weights that it needs."""
        ...

    def Trainee(  # noqa: N802  # a class in the file
        self, config: Any, networks: Networks, *, average: trainee.Average
    ) -> trainee.Trainee:
        """The detector in training."""
        ...

    def detector(
        self, config: Any, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
        stages: Collection[Stage] = STAGES,
    ) -> Detector:  # fmt: skip
        """The three stages, of which only `stages` are made."""
        ...


def file_of(config: DetectorConfig) -> DetectorFile:
    """The file of a detector."""
    match config:
        case dpa.Config():
            return dpa
        case enlarged_nuclei.Config():
            return enlarged_nuclei
        case fanogan.Config():
            return fanogan


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
