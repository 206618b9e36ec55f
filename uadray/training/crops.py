"""Blocks of tiles -> blocks of random crops: what every reader of a training does, on Ray or without it.

A source knows its entries (see `uadray.training.passes`) and reads any of them: `slide_source` cuts tiles from slides,
`shard_source` decodes row groups of a Parquet tile set, `file_source` the images of a folder or zip. What is read is
cropped at once, so that a reader holds the crops of a block and the whole tiles of a moment, however large slides are.

What is wrong with a slide costs its tiles, and is noted once (see `uadray.training.journal`). What is wrong with
credentials, network or disk ends the reading.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.errors import SYSTEM_REASONS, reason_of
from uadray.tiles.stain_augment import augment
from uadray.training.journal import Journal, Notes
from uadray.training.passes import BLOCK_BYTES, Ints, Passes

Pixels = npt.NDArray[np.uint8]

PART_BYTES = BLOCK_BYTES * 3 // 2
"""Crops of a block's parts: all of a block, but for those with an entry that is larger."""

THREADS = 8
"""Slides (or shards) that a reader waits for at once: storage answers slowly, decoding is quick."""

Crop = Callable[[Pixels], Pixels]
"""A tile [h, w, 3] -> its random crop."""


@dataclass(frozen=True)
class Crops:
    """Crops of tiles that were read together, of one slide, shard or list of files; unreadable tiles are left out.

    Attributes:
        slide: number of the slide; -1 where the set does not say.
        tiles: [n], the number of each tile within its slide (or within the set, without slides).
        crops: [n] RGB [side, side, 3].
        errors: tiles that could not be read.
    """

    slide: int
    tiles: list[int]
    crops: list[Pixels]
    errors: int


@dataclass(frozen=True)
class Job:
    """Something to read, by one thread at a time.

    Attributes:
        name: of the slide, or of the file of a tile set.
        n_tiles: how many it is about.
        read: yields the crops of some tens of tiles at a time.
    """

    name: str
    n_tiles: int
    read: Callable[[Crop], Iterator[Crops]]


class Source(Protocol):
    """Where tiles come from."""

    @property
    def entry_tiles(self) -> Ints:
        """[n_entries], tiles of each."""
        ...

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[n_slides], each slide's share of the tiles of a pass; empty where slides are not known."""
        ...

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        """What is to be read for `entries` of a pass; the jobs may run in any order and at once."""
        ...


def crop_schema(input_px: int) -> pa.Schema:
    """Rows of the training data: RGB bytes of a crop, and where it comes from."""
    return pa.schema(
        [
            pa.field("pixels", pa.binary(3 * input_px**2), nullable=False),
            pa.field("pass_number", pa.int32(), nullable=False),
            pa.field("slide", pa.int32(), nullable=False),
            pa.field("tile", pa.int32(), nullable=False),
        ]
    )


def crop_block(
    source: Source, passes: Passes, block: int, *, input_px: int, stain_augment: float, journal: Notes | None = None
) -> Iterator[pa.Table]:
    """A block, shuffled, schema `crop_schema`. One that is large comes in several tables; one of no tile in none.

    Args:
        source: what is read.
        passes: in which order.
        block: its number.
        input_px: side of a crop.
        stain_augment: strength of the stain augmentation; 0 for none.
        journal: is told what is read now, and what could not be.

    Raises:
        UadrayError: a fault of the system; no slide's.
    """
    journal = journal or Journal()
    pass_number, within, entries = passes.block(block, source.entry_tiles)
    rng = np.random.default_rng([passes.seed, pass_number, within])
    with ThreadPoolExecutor(THREADS) as threads:
        journal.start(block)
        try:
            jobs = source.jobs(pass_number, entries) if len(entries) else []
            tables = (
                _table(crops, pass_number, input_px, stain_augment, rng)
                for crops in _read(jobs, threads, journal, block, input_px, rng)
            )
            yield from _joined(tables, PART_BYTES // (3 * input_px**2))
        finally:
            journal.end(block)


def _joined(tables: Iterator[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Rows in tables of so many at the least, but for the last.

    What a reader that died had sent on, the next one may not cut otherwise: it reads some slides one by one.
    """
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= n_rows:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def _read(
    jobs: list[Job], threads: ThreadPoolExecutor, journal: Notes, block: int, input_px: int, rng: np.random.Generator
) -> Iterator[list[Crops]]:
    """What jobs read, by and by: of each at most a block's worth of crops at once."""
    at_once = max(1, BLOCK_BYTES // (3 * input_px**2))
    crop_of = [partial(random_crop, side=input_px, rng=job_rng) for job_rng in rng.spawn(len(jobs))]
    groups = journal.groups([job.name for job in jobs])
    left_out = [job for job in jobs if not any(job.name in names for names in groups)]
    yield [Crops(-1, [], [], job.n_tiles) for job in left_out]
    for names in groups:
        journal.begin(block, names)
        open_jobs = [noted(job, crop, journal) for job, crop in zip(jobs, crop_of, strict=True) if job.name in names]
        while open_jobs:
            answers = list(threads.map(lambda job: _next_crops(job, at_once), open_jobs))
            open_jobs = [job for job, crops in zip(open_jobs, answers, strict=True) if _count(crops) >= at_once]
            yield [part for crops in answers for part in crops]


def _next_crops(job: Iterator[Crops], n_tiles: int) -> list[Crops]:
    """The next crops of a job, until they are of `n_tiles` tiles; fewer tiles are the last ones."""
    crops: list[Crops] = []
    while _count(crops) < n_tiles and (more := next(job, None)) is not None:
        crops.append(more)
    return crops


def _count(crops: list[Crops]) -> int:
    return sum(len(part.tiles) for part in crops)


def noted(job: Job, crop: Crop, journal: Notes) -> Iterator[Crops]:
    """Read a job; what cannot be read is noted and counted, if it is the fault of what is read."""
    done = 0
    try:
        for crops in job.read(crop):
            done += len(crops.tiles) + crops.errors
            yield crops
    except Exception as error:
        word, message = reason_of(error)
        if word in SYSTEM_REASONS:
            raise
        journal.note(job.name, f"{word}: {' '.join(message.split())[:300]}")
        yield Crops(-1, [], [], job.n_tiles - done)


def _table(
    parts: list[Crops], pass_number: int, input_px: int, stain_augment: float, rng: np.random.Generator
) -> pa.Table:
    """Rows of `crop_schema` in random order."""
    numbers = np.array([(part.slide, tile) for part in parts for tile in part.tiles], np.int32).reshape(-1, 2)
    read = [crop for part in parts for crop in part.crops]
    order = rng.permutation(len(read))
    crops = np.empty((len(read), input_px, input_px, 3), np.uint8)
    for row, i in enumerate(order):
        crops[row] = read[i]
    if stain_augment > 0 and len(crops):
        crops = augment(crops, rng, sigma_alpha=stain_augment, sigma_beta=stain_augment)
    pixels = [None, pa.py_buffer(crops)]
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(3 * input_px**2), len(crops), pixels),
        pa.array(np.full(len(crops), pass_number, np.int32)),
        pa.array(numbers[order, 0]),
        pa.array(numbers[order, 1]),
    ]
    return pa.table(columns, schema=crop_schema(input_px))


def crop_pixels(table: pa.Table, side: int) -> Pixels:
    """The crops [n, side, side, 3] of rows of `crop_schema`."""
    column = table["pixels"].combine_chunks()
    flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * 3 * side**2, column.offset * 3 * side**2)
    return flat.reshape(-1, side, side, 3).copy()


def random_crop(pixels: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A random square of [h, w, 3], flipped and turned at random: tissue has no up."""
    y, x = (int(rng.integers(n - side + 1)) for n in pixels.shape[:2])
    crop = pixels[y : y + side, x : x + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.array(np.rot90(crop, int(rng.integers(4))), order="C")  # a view would hold all that was read with it
