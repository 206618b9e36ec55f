"""How near a generator's pictures come to real tiles, as the papers measure it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from uadray.detectors.pixels import to_pixels
from uadray.errors import InputError
from uadray.evaluation.feature_spaces import SpaceName, feature_space
from uadray.evaluation.frechet import frechet_distance, kernel_distance, moments
from uadray.evaluation.manifolds import precision_and_recall
from uadray.evaluation.real_tiles import real_tiles
from uadray.generators.catalog import GeneratorConfig
from uadray.generators.pictures import drawn
from uadray.networks.outline import Networks
from uadray.tiles.images import Pixels
from uadray.training.config import TrainConfig

VALIDATION_SEED = 20_000
"""Added to a training's seed: tiles and latents of its validation are others than those it learns from."""

DRAWN_AT_ONCE = 64
"""Pictures that a generator draws together."""


@dataclass(frozen=True, eq=False)
class Validator:
    """Judges a generator in training: figures on a small network, comparable from checkpoint to checkpoint.

    Attributes:
        real: features of real tiles, [n, d].
        space: whose features they are.
        seed: of the latents, the same at every call.
    """

    real: npt.NDArray[np.float32]
    space: SpaceName
    seed: int

    def __call__(self, config: TrainConfig, networks: Networks, device: str) -> dict[str, float]:
        """Both distances, precision and recall of as many pictures as there are real tiles, named after their features.

        Args:
            config: of the training.
            networks: of the generator; moved to the device.
            device: to draw and compare on.
        """
        space = feature_space(self.space, device)
        pictures = sampled(generator_of(config), networks, len(self.real), seed=self.seed, device=device)
        fake = space.of_each(pictures)
        precision, recall = precision_and_recall(*(torch.from_numpy(each).to(device) for each in (self.real, fake)))
        return {
            space.figure("frechet"): frechet_distance(moments(self.real), moments(fake)),
            space.figure("kid"): kernel_distance(self.real, fake),
            space.figure("precision"): precision, space.figure("recall"): recall,
        }  # fmt: skip


def validator_for(config: TrainConfig, data: str) -> Validator:
    """The validator of a training: real tiles are read, and their features computed, here and once.

    Args:
        config: of the training, which is of a generator; `validate_tiles` real tiles are taken.
        data: URI of a slide manifest or a tile set.

    Raises:
        InputError: no usable slide or tile, or the training is of something else.
        WorkError: the weights of the features cannot be had.
    """
    generator_of(config)
    seed = config.seed + VALIDATION_SEED
    space = feature_space("efficientnet_lite0", "cpu")
    real = space.of_each(real_tiles(config, data, most=config.validate_tiles, seed=seed))
    return Validator(real, space.name, seed)


def generator_of(config: TrainConfig) -> GeneratorConfig:
    """The generator that is trained.

    Raises:
        InputError: something else is.
    """
    if config.generator is None:
        raise InputError(f"configuration {config.name}: validate_every is for generators; set it to 0")
    return config.generator


def sampled(
    config: GeneratorConfig, networks: Networks, n: int, *, seed: int, device: str = "cpu", truncation: float = 1.0
) -> Iterator[Pixels]:
    """Pictures of a generator as bytes [b, h, w, 3], n in all: published figures are of files."""
    for x in drawn(config, networks, n, seed=seed, truncation=truncation, batch=DRAWN_AT_ONCE, device=device):
        yield to_pixels(x)
