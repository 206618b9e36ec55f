"""In which order a training reads its tiles: pass after pass, blocks that mix many slides. Plain arithmetic.

What a pass draws from a slide (or from a shard of a tile set) is cut into *entries* of some 32 tiles that lie close
together. Every pass shuffles all entries; consecutive ones make a *block*, which one reader reads, shuffles and hands
on; consecutive blocks, across passes, make a read task. All of it follows from the seed and a number: any process
computes it, and a reader that is started again reads the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

ENTRY_TILES = 32
"""Tiles of an entry. Few, so that a block holds many slides; not one, for neighbours share JPEG tiles of the slide."""

BLOCK_BYTES = 4 * 2**20
"""Crops of a block: 341 of 64 px, from 10 entries."""

MAX_TASKS = 2000
"""Read tasks of a training: Ray puts each into its object store before the first runs."""


@dataclass(frozen=True)
class Passes:
    """The order of reading.

    Attributes:
        seed: of the training.
        first: number of the first pass.
        count: how many passes there are.
        blocks_per_pass: blocks of about as many tiles; one may be empty beside an entry larger than a block.
        blocks_per_task: consecutive blocks of a read task.
    """

    seed: int
    first: int
    count: int
    blocks_per_pass: int
    blocks_per_task: int

    @property
    def n_tasks(self) -> int:
        """Read tasks of all passes."""
        return -(-self.count * self.blocks_per_pass // self.blocks_per_task)

    def blocks(self, task: int, entry_tiles: Ints) -> Iterator[tuple[int, int, Ints]]:
        """What a read task reads: pass, block of the pass, and its entries, of those with `entry_tiles` tiles."""
        stop = min((task + 1) * self.blocks_per_task, self.count * self.blocks_per_pass)
        turn, split = -1, list[Ints]()
        for number in range(task * self.blocks_per_task, stop):
            if turn != number // self.blocks_per_pass:
                turn = number // self.blocks_per_pass
                split = self.split(self.first + turn, entry_tiles)
            block = number % self.blocks_per_pass
            if len(split[block]):
                yield self.first + turn, block, split[block]

    def split(self, turn: int, entry_tiles: Ints) -> list[Ints]:
        """All entries in the order of pass `turn`, by block."""
        order = np.random.default_rng([self.seed, turn]).permutation(len(entry_tiles))
        before = entry_tiles[order].cumsum() - entry_tiles[order]
        blocks = before * self.blocks_per_pass // entry_tiles.sum()
        return np.split(order, np.searchsorted(blocks, np.arange(1, self.blocks_per_pass)))


def plan_passes(
    tiles_per_pass: int, *, seed: int, n_tiles: int, input_px: int, first: int = 0, max_tasks: int = MAX_TASKS
) -> Passes:
    """As many whole passes as `n_tiles` take, and one more: no worker runs dry before the others.

    Args:
        tiles_per_pass: of all slides.
        seed: of the training.
        n_tiles: that all workers together will take.
        input_px: side of a crop.
        first: number of the first pass.
        max_tasks: read tasks at the most.
    """
    per_pass = max(1, round(tiles_per_pass * 3 * input_px**2 / BLOCK_BYTES))
    count = -(-n_tiles // tiles_per_pass) + 1
    return Passes(seed, first, count, per_pass, max(1, -(-count * per_pass // max_tasks)))


def draw(n: int, count: int, key: Iterable[int]) -> Ints:
    """`count` of `n` things, at random and in their order: the same for the same key, all of them where n <= count."""
    if count >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(list(key)).choice(n, count, replace=False, shuffle=False))


def along_curve(x: Ints, y: Ints) -> Ints:
    """The order of grid cells [n] along a Z-curve: any run of it is a compact patch (Morton 1966).

    >>> along_curve(np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])).tolist()
    [3, 2, 1, 0]
    """
    code = _spread(x) | (_spread(y) << np.uint64(1))
    return np.argsort(code, kind="stable")


def _spread(values: Ints) -> npt.NDArray[np.uint64]:
    """Put a zero bit above each of 32 bits."""
    v = values.astype(np.uint64)
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        v = (v | (v << np.uint64(shift))) & np.uint64(mask)
    return v


def mixing(batches: Iterable[npt.NDArray[np.integer]], shares: npt.NDArray[np.floating]) -> float:
    """How well slides are mixed: mean distinct slides of a batch over their number under perfect mixing.

    1 is as good as drawing every tile of a batch from the whole pass; 1 / (expected number) is a slide a batch.

    Args:
        batches: the slide of each tile of each batch, [n].
        shares: [n_slides], each slide's share of the tiles of a pass; they add up to 1.
    """
    found, expected = [], []
    for slides in batches:
        found.append(len(np.unique(slides)))
        expected.append(float((1 - (1 - shares) ** len(slides)).sum()))
    return float(np.sum(found) / np.sum(expected))
