"""In which order a training reads its tiles: pass after pass, blocks that mix many slides. Plain arithmetic.

Four words for some tiles, used in all of `uadray.training`:

    pass   every tile of a training once, or `tiles_per_slide` of each slide, drawn anew
    entry  up to 32 tiles of a slide (or shard) that lie close together: what one pass reads at once from a slide
    block  consecutive entries of a shuffled pass: what a reader reads, shuffles and hands on; a task of the cluster
    batch  the tiles of a step, which a worker takes from a buffer of several blocks

All of it follows from the seed and a number: any process computes it, and a reader that is started again reads the
same.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

ENTRY_TILES = 32
"""Tiles of an entry. Few, so that a block holds many slides; not one, for neighbours share JPEG tiles of the slide."""

BLOCK_BYTES = 4 * 2**20
"""Crops of a block: 341 of 64 px, from 10 entries."""


@dataclass(frozen=True)
class Passes:
    """The order of reading. Blocks are counted from the first of the training's first pass, without end.

    Attributes:
        seed: of the training.
        blocks_per_pass: blocks of about as many tiles; one may be empty beside an entry larger than a block.
    """

    seed: int
    blocks_per_pass: int

    def block(self, number: int, entry_tiles: Ints) -> tuple[int, int, Ints]:
        """Pass, number within the pass, and the entries of a block, of entries with `entry_tiles` tiles each."""
        pass_number, within = divmod(number, self.blocks_per_pass)
        order = np.random.default_rng([self.seed, pass_number]).permutation(len(entry_tiles))
        before = entry_tiles[order].cumsum() - entry_tiles[order]
        blocks = before * self.blocks_per_pass // entry_tiles.sum()
        first, end = np.searchsorted(blocks, [within, within + 1])
        return pass_number, within, order[first:end]


def endless_passes(tiles_per_pass: int, *, seed: int, input_px: int) -> Passes:
    """Pass after pass.

    Args:
        tiles_per_pass: of all slides.
        seed: of the training.
        input_px: side of a crop.
    """
    return Passes(seed, max(1, round(tiles_per_pass * 3 * input_px**2 / BLOCK_BYTES)))


def along_curve(x: Ints, y: Ints) -> Ints:
    """The order of grid cells [n] along a Z-curve: any run of it is a compact patch (Morton 1966).

    >>> along_curve(np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])).tolist()
    [3, 2, 1, 0]
    """
    code = _spread(x) | (_spread(y) << np.uint64(1))
    return np.argsort(code, kind="stable")


def pack_corners(corners: npt.NDArray[np.integer]) -> bytes:
    """Corners [n, 2] of tiles of a grid, in few bytes: a bit for each place of the grid, compressed.

    Tissue lies in patches: 15,000 tiles take about 2 KB instead of 120. What is not on a common grid comes back as
    well, in more bytes. The order does not.
    """
    (x, columns), (y, rows) = (np.unique(c, return_inverse=True) for c in corners.astype("<i4").T)
    cells = np.zeros((len(y), len(x)), np.bool_)
    cells[rows, columns] = True
    steps = np.diff(np.concatenate([x, y]), prepend=np.int32(0)).astype("<i4")
    sizes = np.array([len(x), len(y)], "<i4")
    return zlib.compress(sizes.tobytes() + steps.tobytes() + np.packbits(cells).tobytes())


def unpack_corners(packed: bytes, numbers: Ints | None = None) -> tuple[npt.NDArray[np.int32], Ints]:
    """Corners [n, 2] row by row, or those with `numbers`; and the column and row [n, 2] of the grid that each lies in.

    >>> unpack_corners(pack_corners(np.array([[7, 20], [0, 10], [7, 10]])))[0].tolist()
    [[0, 10], [7, 10], [7, 20]]
    """
    data = zlib.decompress(packed)
    n_columns, n_rows = np.frombuffer(data, "<i4", 2)
    lines = np.frombuffer(data, "<i4", n_columns + n_rows, 8).cumsum(dtype=np.int32)
    bits = np.frombuffer(data, np.uint8, offset=8 + 4 * len(lines))
    cells = np.flatnonzero(np.unpackbits(bits, count=n_columns * n_rows))
    rows, columns = np.divmod(cells if numbers is None else cells[numbers], n_columns)
    return np.stack([lines[columns], lines[n_columns + rows]], axis=1), np.stack([columns, rows], axis=1)


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
    distinct, expected = [], []
    for slides in batches:
        distinct.append(len(np.unique(slides)))
        expected.append(float((1 - (1 - shares) ** len(slides)).sum()))
    return float(np.sum(distinct) / np.sum(expected))
