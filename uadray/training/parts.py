"""From which tiles a stream takes its batches: shuffled buffers of consecutive parts of blocks. NumPy alone.

Consecutive blocks (see `uadray.training.passes`) are put together to a buffer of at least `shuffle_tiles` tiles, which
is shuffled and handed out. Where a buffer begins, how many blocks it has and how it is shuffled follows from the seed
and the number of its first block, so that a place is two numbers: that block, and how many tiles of its buffer are
gone. A block that is large, of a slide that can only be read whole, comes in parts, and a buffer may begin with any.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from uadray.errors import WorkError
from uadray.training.crops import Pixels


@dataclass(frozen=True)
class Place:
    """Where a stream stands.

    Attributes:
        block: first block of the buffer from which the next tile comes.
        used: tiles of that buffer that were handed out.
        part: of the block, with which the buffer begins.
        row: number of that part among all that the group's workers were dealt, counted from the training's start; 0
            without Ray.
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


def from_place(parts: Iterator[Part], place: Place | None) -> Iterator[Part]:
    """The parts from that on with which the buffer of a place begins."""
    begin = (place.block, place.part) if place else (0, 0)
    return itertools.dropwhile(lambda part: (part.place.block, part.place.part) < begin, parts)


def buffers(parts: Iterator[Part], *, seed: int, shuffle_tiles: int, blocks_per_pass: int) -> Iterator[Buffer]:
    """Shuffled buffers without end; fewer, where the parts have an end.

    Raises:
        WorkError: the blocks of a whole pass give no tile.
    """
    for first in parts:
        gathered, n_tiles = [first], len(first.crops)
        begin = first.place
        while n_tiles < shuffle_tiles and (part := next(parts, None)) is not None:
            gathered.append(part)
            n_tiles += len(part.crops)
            if not n_tiles and part.place.block - begin.block >= blocks_per_pass:
                raise WorkError(
                    "no tile of a whole pass can be read, or has enough tissue; nothing is left to train on"
                )
        key = [seed, begin.block, 2, *([begin.part] if begin.part else [])]
        order = np.random.default_rng(key).permutation(n_tiles)
        yield Buffer(begin, np.concatenate([part.crops for part in gathered])[order])
