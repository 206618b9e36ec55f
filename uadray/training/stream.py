"""Batches of a training: read ahead by a thread, and resumed at the very tile that would have come next.

Consecutive blocks (see `uadray.training.passes`) are put together to a buffer of at least `shuffle_tiles` tiles, which
is shuffled and handed out. Where a buffer begins, how many blocks it has and how it is shuffled follows from the seed
and the number of its first block, so that a place is two numbers: that block, and how many tiles of its buffer are
gone. A block that is large, of a slide that can only be read whole, comes in parts, and a buffer may begin with any.

Without Ray the parts are read here. On Ray readers send them (see `uadray.training.ray_dataset`), in the same order:
one worker takes the very tiles that a training without Ray takes.
"""

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from uadray.detectors.pixels import to_float
from uadray.errors import WorkError, shown, shown_text
from uadray.training.config import TrainConfig
from uadray.training.crops import Pixels, Source, crop_block, crop_pixels
from uadray.training.journal import Journal
from uadray.training.passes import Passes, endless_passes

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a stream stands.

    Attributes:
        block: first block of the buffer from which the next tile comes.
        used: tiles of that buffer that were handed out.
        part: of the block, with which the buffer begins.
        row: number of that part among all that the group's workers were dealt, counted from the training's start; 0 on
            a worker that is alone.
    """

    block: int = 0
    used: int = 0
    part: int = 0
    row: int = 0


@dataclass(frozen=True)
class Part:
    """A part of a block: shuffled crops [n, side, side, 3], none where nothing of it can be read.

    Attributes:
        place: of its first tile.
        crops: see above.
    """

    place: Place
    crops: Pixels


@dataclass(frozen=True)
class Buffer:
    """Shuffled crops [n, side, side, 3] of the parts from `place` on."""

    place: Place
    crops: Pixels


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
        self._buffers = _ahead(buffers(parts, config, blocks_per_pass=blocks_per_pass))
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
    passes = endless_passes(int(source.entry_tiles.sum()), seed=config.seed, input_px=config.input_px)
    parts = from_place(_parts(source, config, passes, place.block if place else 0), place)
    return TileStream(parts, config, blocks_per_pass=passes.blocks_per_pass, device=device, place=place)


def from_place(parts: Iterator[Part], place: Place | None) -> Iterator[Part]:
    """The parts from that on with which the buffer of a place begins."""
    begin = (place.block, place.part) if place else (0, 0)
    return itertools.dropwhile(lambda part: (part.place.block, part.place.part) < begin, parts)


def _parts(source: Source, config: TrainConfig, passes: Passes, first_block: int) -> Iterator[Part]:
    """Parts of all blocks, read in this process."""
    journal, side = Journal(), config.input_px
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


def buffers(parts: Iterator[Part], config: TrainConfig, *, blocks_per_pass: int) -> Iterator[Buffer]:
    """Shuffled buffers without end; fewer, where the parts have an end.

    Raises:
        WorkError: the blocks of a whole pass give no tile.
    """
    for first in parts:
        gathered, n_tiles = [first], len(first.crops)
        begin = first.place
        while n_tiles < config.shuffle_tiles and (part := next(parts, None)) is not None:
            gathered.append(part)
            n_tiles += len(part.crops)
            if not n_tiles and part.place.block - begin.block >= blocks_per_pass:
                raise WorkError(
                    "no tile of a whole pass can be read, or has enough tissue; nothing is left to train on"
                )
        key = [config.seed, begin.block, 2, *([begin.part] if begin.part else [])]
        order = np.random.default_rng(key).permutation(n_tiles)
        yield Buffer(begin, np.concatenate([part.crops for part in gathered])[order])


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items of an iterator without end, one of them made ahead by a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="uadray-read-ahead") as thread:
        coming = thread.submit(next, items)
        for _ in itertools.count():
            item = coming.result()
            coming = thread.submit(next, items)
            yield item
