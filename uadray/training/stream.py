"""Batches of a training without Ray: read ahead by a thread, and resumed at the very tile that would have come next.

Consecutive blocks (see `uadray.training.passes`) are put together to a buffer of at least `shuffle_tiles` tiles, which
is shuffled and handed out. Where a buffer begins, how many blocks it has and how it is shuffled follows from the seed
and the number of its first block, so that a place is two numbers: that block, and how many tiles of its buffer are
gone.
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
from uadray.training.crops import Pixels, Source, crop_blocks, crop_pixels
from uadray.training.journal import Journal
from uadray.training.passes import Passes, plan_passes

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a stream stands.

    Attributes:
        block: first block of the buffer from which the next tile comes.
        used: tiles of that buffer that were handed out.
    """

    block: int = 0
    used: int = 0


@dataclass(frozen=True)
class Buffer:
    """Shuffled crops [n, side, side, 3] of the blocks from `block` on; the next buffer begins with `next_block`."""

    block: int
    next_block: int
    crops: Pixels


class TileStream(Iterator[Tensor]):
    """X [batch, 3, side, side] in [-1, 1] on a device, without end.

    Attributes:
        place: of the next tile, for a checkpoint.
    """

    def __init__(
        self, source: Source, config: TrainConfig, *, device: torch.device, place: Place | None = None
    ) -> None:
        self.place = place or Place()
        self._batch, self._device = config.batch_size, device
        self._buffers = _ahead(_buffers(source, config, self.place.block))
        self._buffer = next(self._buffers)

    def __next__(self) -> Tensor:
        parts, missing = list[Pixels](), self._batch
        while missing:
            if self.place.used >= len(self._buffer.crops):
                self.place = Place(self._buffer.next_block)
                self._buffer = next(self._buffers)
                continue
            part = self._buffer.crops[self.place.used : self.place.used + missing]
            self.place = replace(self.place, used=self.place.used + len(part))
            missing -= len(part)
            parts.append(part)
        return to_float(torch.from_numpy(np.concatenate(parts)).to(self._device))


def _buffers(source: Source, config: TrainConfig, first_block: int) -> Iterator[Buffer]:
    """Buffers without end.

    Raises:
        WorkError: the blocks of a whole pass give no tile.
    """
    passes = _endless(source, config)
    journal = Journal()
    block = first_block
    while True:
        crops: list[Pixels] = []
        begin, n_tiles = block, 0
        while n_tiles < config.shuffle_tiles:
            read = _block(source, passes, block, config, journal)
            crops.append(read)
            n_tiles, block = n_tiles + len(read), block + 1
            if not n_tiles and block - begin >= passes.blocks_per_pass:
                raise WorkError(
                    "no tile of a whole pass can be read, or has enough tissue; nothing is left to train on"
                )
        for name, why in journal.take():
            log.warning("%s gives no more tiles to this training: %s", shown(name), shown_text(why))
        order = np.random.default_rng([config.seed, begin, 2]).permutation(n_tiles)
        yield Buffer(begin, block, np.concatenate(crops)[order])


def _endless(source: Source, config: TrainConfig) -> Passes:
    """Passes without end, each read task a single block."""
    passes = plan_passes(int(source.entry_tiles.sum()), seed=config.seed, n_tiles=0, input_px=config.input_px)
    return replace(passes, start=0, n_blocks=2**62, blocks_per_task=1)


def _block(source: Source, passes: Passes, block: int, config: TrainConfig, journal: Journal) -> Pixels:
    """Crops [n, side, side, 3] of one block, shuffled."""
    side = config.input_px
    tables = crop_blocks(
        source, passes, block, input_px=side, stain_augment=config.stain_augment, journal=journal
    )  # fmt: skip
    crops = [crop_pixels(table, side) for table in tables]
    return np.concatenate(crops) if crops else np.empty((0, side, side, 3), np.uint8)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items of an iterator without end, one of them made ahead by a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="uadray-read-ahead") as thread:
        coming = thread.submit(next, items)
        for _ in itertools.count():
            item = coming.result()
            coming = thread.submit(next, items)
            yield item
