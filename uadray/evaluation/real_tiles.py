"""Real tiles that a generator is judged against, cut, cropped and turned as those it was trained on."""

import logging
from collections.abc import Iterator

from uadray.errors import InputError, shown, shown_text
from uadray.tiles.images import Pixels
from uadray.training.config import TrainConfig
from uadray.training.crops import Source, crop_block, crop_pixels
from uadray.training.dataset import TrainingTiles, training_tiles
from uadray.training.journal import Journal
from uadray.training.passes import endless_passes
from uadray.training.survey import in_threads

log = logging.getLogger(__name__)

LEAST_TILES = 8
"""Below, there is nothing to compare."""


def real_tiles(config: TrainConfig, data: str, *, most: int, seed: int) -> Iterator[Pixels]:
    """Crops of the tiles behind a URI, see `opened` and `crops_of`."""
    return crops_of(opened(config, data, seed=seed), config.input_px, most=most, seed=seed)


def opened(config: TrainConfig, data: str, *, seed: int) -> TrainingTiles:
    """The tiles that a training with this configuration would take.

    Args:
        config: says how tiles are cut, which of them are trained on, and how large a crop is.
        data: URI of a slide manifest or a tile set.
        seed: of the tiles' order.

    Raises:
        InputError: no usable slide or tile.
    """
    return training_tiles(
        data, tiles=config.trained_tiles, input_px=config.input_px, tiles_per_slide=None, label=config.train_label,
        seed=seed, survey_each=in_threads, split=config.train_split,
    )  # fmt: skip


def crops_of(tiles: TrainingTiles, input_px: int, *, most: int, seed: int) -> Iterator[Pixels]:
    """Crops as RGB bytes [b, side, side, 3], each tile once: `most` in all, or as many as can be read.

    Their colours are those of the slides, whatever the training did to them.

    Args:
        tiles: that are read.
        input_px: side of a crop.
        most: tiles at the most.
        seed: of the choice and the crops.

    Raises:
        InputError: too few can be read to compare with.
    """
    journal, taken = Journal(), 0
    for crops in _crops(tiles.source, tiles.n_tiles, input_px=input_px, seed=seed, journal=journal):
        wanted = crops[: most - taken]
        taken += len(wanted)
        yield wanted
        if taken == most:
            break
    for name, why in journal.take():
        log.warning("%s gives no tiles: %s", shown(name), shown_text(why))
    if taken < LEAST_TILES:
        raise InputError(f"{taken} real tiles could be read, at least {LEAST_TILES} are needed to judge a generator")


def _crops(source: Source, n_tiles: int, *, input_px: int, seed: int, journal: Journal) -> Iterator[Pixels]:
    """The crops of one pass, some at a time."""
    passes = endless_passes(n_tiles, seed=seed, input_px=input_px)
    for block in range(passes.blocks_per_pass):
        for table in crop_block(source, passes, block, input_px=input_px, stain_augment=0.0, journal=journal):
            yield crop_pixels(table, input_px)
