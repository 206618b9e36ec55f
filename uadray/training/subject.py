"""What a training trains, a detector, a generator or a classifier: all have the same names in their files."""

from typing import Any

from uadray.classifiers import densenet
from uadray.detectors import building as detectors
from uadray.detectors.trainee import Average, Trainee, alone
from uadray.generators import catalog as generators
from uadray.networks.outline import Networks
from uadray.training.config import TrainConfig, detector_of


def build_networks(config: TrainConfig, *, pretrained: bool = True) -> Networks:
    """The networks by name, untrained.

    Args:
        config: says which and how large.
        pretrained: load what others have trained; False where a checkpoint's own weights follow.

    Raises:
        InputError: they are too large together, or cannot be built.
    """
    file, subject, outline_of = _file_of(config)
    outline_of(subject)
    networks: Networks = file.networks(subject, pretrained=pretrained)
    return networks


def parameters(config: TrainConfig) -> dict[str, int]:
    """How many numbers each network learns, by its name; nothing is built for it.

    Raises:
        InputError: they are too large together.
    """
    _, subject, outline_of = _file_of(config)
    return {name: sum(p.numel() for p in network.parameters()) for name, network in outline_of(subject).items()}


def build_trainee(config: TrainConfig, networks: Networks, *, average: Average = alone) -> Trainee:
    """What learns, with its networks."""
    file, subject, _ = _file_of(config)
    trainee: Trainee = file.Trainee(subject, networks, average=average)
    return trainee


def borrowed_weights(config: TrainConfig) -> tuple[str, ...]:
    """Names of the pinned weights that are needed."""
    file, subject, _ = _file_of(config)
    names: tuple[str, ...] = file.borrowed_weights(subject)
    return names


def _file_of(config: TrainConfig) -> tuple[Any, Any, Any]:
    """The file with the names, the configuration that they take, and what checks its size."""
    if config.generator is not None:
        return generators.file_of(config.generator), config.generator, generators.outline_of
    if config.classifier is not None:
        return densenet, config.classifier, densenet.outline_of
    detector = detector_of(config)
    return detectors.file_of(detector), detector, detectors.outline_of
