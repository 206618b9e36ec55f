"""Batches of a training: read ahead by a thread, and resumed at the very tile that would have come next.

Tiles come from shuffled buffers, see `uadray.training.parts`.

Without Ray the parts are read here. On Ray readers send them (see `uadray.training.ray_dataset`), in the same order:
one worker takes the very tiles that a training without Ray takes.
"""

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from uadray.detectors.pixels import to_float
from uadray.errors import shown, shown_text
from uadray.training.config import TrainConfig
from uadray.training.crops import Pixels, Source, crop_block, crop_pixels
from uadray.training.journal import Journal
from uadray.training.parts import Part, Place, buffers, from_place
from uadray.training.passes import Passes, endless_passes

log = logging.getLogger(__name__)

T = TypeVar("T")


class TileStream(Iterator[Tensor]):
    """X [batch, 3, side, side] in [-1, 1] on a device, without end.

    Args:
        parts: in their order, from that on with which the buffer of `place` begins.
        config: of the training.
        blocks_per_pass: so many blocks without a tile end the training.
        device: gets the batches.
        place: of the next tile; None begins.

    Attributes:
        place: of the next tile, for a checkpoint.
    """

    def __init__(
        self, parts: Iterator[Part], config: TrainConfig, *, blocks_per_pass: int, device: torch.device,
        place: Place | None = None,
    ) -> None:  # fmt: skip
        self._batch, self._device = config.batch_size, device
        self._buffers = _ahead(
            buffers(parts, seed=config.seed, shuffle_tiles=config.shuffle_tiles, blocks_per_pass=blocks_per_pass)
        )
        self._buffer = next(self._buffers)
        self.place = replace(self._buffer.place, used=place.used if place else 0)

    def __next__(self) -> Tensor:
        taken, missing = list[Pixels](), self._batch
        while missing:
            if self.place.used >= len(self._buffer.crops):
                self._buffer = next(self._buffers)
                self.place = self._buffer.place
                continue
            crops = self._buffer.crops[self.place.used : self.place.used + missing]
            self.place = replace(self.place, used=self.place.used + len(crops))
            missing -= len(crops)
            taken.append(crops)
        return to_float(torch.from_numpy(np.concatenate(taken)).to(self._device))


def read_here(source: Source, config: TrainConfig, *, device: torch.device, place: Place | None = None) -> TileStream:
    """The stream of a training without Ray, from a place on; None begins."""
    blocks = _passes(source, config).blocks_per_pass
    parts = from_place(read_parts(source, config, first_block=place.block if place else 0), place)
    return TileStream(parts, config, blocks_per_pass=blocks, device=device, place=place)


def read_parts(source: Source, config: TrainConfig, *, first_block: int = 0) -> Iterator[Part]:
    """Parts of all blocks, read in this process."""
    journal, side, passes = Journal(), config.input_px, _passes(source, config)
    for block in itertools.count(first_block):
        number = 0
        for table in crop_block(
            source, passes, block, input_px=side, stain_augment=config.stain_augment, journal=journal
        ):
            yield Part(Place(block, part=number), crop_pixels(table, side))
            number += 1
        if not number:
            yield Part(Place(block), np.empty((0, side, side, 3), np.uint8))
        for name, why in journal.take():
            log.warning("%s gives no more tiles to this training: %s", shown(name), shown_text(why))


def _passes(source: Source, config: TrainConfig) -> Passes:
    return endless_passes(int(source.entry_tiles.sum()), seed=config.seed, input_px=config.input_px)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items of an iterator without end, one of them made ahead by a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="uadray-read-ahead") as thread:
        coming = thread.submit(next, items)
        for _ in itertools.count():
            item = coming.result()
            coming = thread.submit(next, items)
            yield item
