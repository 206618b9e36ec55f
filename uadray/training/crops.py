"""Readers of the training ingest: blocks of tiles -> blocks of random crops. Plain Python; Ray only carries it.

A source knows its entries (see `uadray.training.passes`) and reads any of them: `SlideSource` cuts tiles from slides,
`ShardSource` decodes row groups of a Parquet tile set, `FileSource` the images of a folder or zip. What is read is
cropped at once, so that a reader holds crops of a block and whole tiles of a moment, however large slides are.

What is wrong with a slide costs its tiles, and is told once (see `uadray.training.journal`); what is wrong with
credentials, network or disk ends the reading.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.errors import SYSTEM_REASONS, reason_of
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.slides.tiff.slide import TiffSlide
from uadray.slides.tile_reading import tile_places
from uadray.storage import objects
from uadray.tiles.chunks import normalizer_of, read_chunk
from uadray.tiles.sampling import draw
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain
from uadray.tiles.tissue import tissue_mask
from uadray.tilesets import containers, shards
from uadray.training.journal import Journal, Notes
from uadray.training.passes import BLOCK_BYTES, ENTRY_TILES, Ints, Passes, along_curve, unpack_corners

Pixels = npt.NDArray[np.uint8]

OPEN_SLIDES = 64
"""Slides that a reader process keeps open at the most, unless a single block needs more."""

THREADS = 8
"""Slides (or shards) that a reader waits for at once: storage answers slowly, decoding is quick."""


READ_BYTES = 4 * 2**20
"""Whole tiles of a slide that a thread reads at once: 21 of 256 px."""

Crop = Callable[[Pixels], Pixels]
"""A tile [h, w, 3] -> its random crop."""


@dataclass(frozen=True)
class Piece:
    """Tiles of one slide, shard or file list that were read together; those that cannot be read are left out.

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
        read: yields pieces of some tens of tiles.
    """

    name: str
    n_tiles: int
    read: Callable[[Crop], Iterator[Piece]]


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

    def jobs(self, turn: int, entries: Ints) -> list[Job]:
        """What is to be read for `entries` of pass `turn`; the jobs may run in any order and at once."""
        ...


def crop_schema(input_px: int) -> pa.Schema:
    """Rows of the training dataset: RGB bytes of a crop, and where it comes from."""
    return pa.schema(
        [
            pa.field("pixels", pa.binary(3 * input_px**2), nullable=False),
            pa.field("turn", pa.int32(), nullable=False),
            pa.field("slide", pa.int32(), nullable=False),
            pa.field("tile", pa.int32(), nullable=False),
        ]
    )


def crop_blocks(
    source: Source, passes: Passes, task: int, *, input_px: int, stain_augment: float, journal: Notes | None = None
) -> Iterator[pa.Table]:
    """A read task: its blocks, each shuffled, schema `crop_schema`. One that is large comes in several tables.

    Args:
        source: what is read.
        passes: in which order.
        task: number of the read task.
        input_px: side of a crop.
        stain_augment: strength of the stain augmentation; 0 for none.
        journal: is told what is read now, and what could not be.

    Raises:
        UadrayError: a fault of the system; no slide's.
    """
    journal = journal or Journal()
    with ThreadPoolExecutor(THREADS) as threads:
        journal.start(task)
        try:
            for turn, block, entries in passes.blocks(task, source.entry_tiles):
                rng = np.random.default_rng([passes.seed, turn, block])
                for pieces in _pieces(source.jobs(turn, entries), threads, journal, task, input_px, rng):
                    table = _table(pieces, turn, input_px, stain_augment, rng)
                    if len(table):
                        yield table
        finally:
            journal.end(task)


def _pieces(
    jobs: list[Job], threads: ThreadPoolExecutor, journal: Notes, task: int, input_px: int, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    """What jobs read, by and by: of each at most a block's worth of crops at once."""
    at_once = max(1, BLOCK_BYTES // (3 * input_px**2))
    crops = [partial(random_crop, side=input_px, rng=own) for own in rng.spawn(len(jobs))]
    groups = journal.groups([job.name for job in jobs])
    left_out = [job for job in jobs if not any(job.name in names for names in groups)]
    yield [Piece(-1, [], [], job.n_tiles) for job in left_out]
    for names in groups:
        journal.begin(task, names)
        running = [_told(job, crop, journal) for job, crop in zip(jobs, crops, strict=True) if job.name in names]
        while running:
            found = list(threads.map(lambda reading: _some(reading, at_once), running))
            running = [reading for reading, pieces in zip(running, found, strict=True) if _count(pieces) >= at_once]
            yield [piece for pieces in found for piece in pieces]


def _some(reading: Iterator[Piece], n_tiles: int) -> list[Piece]:
    """The next pieces, until they have `n_tiles` tiles; fewer tiles are the last ones."""
    pieces: list[Piece] = []
    while _count(pieces) < n_tiles and (piece := next(reading, None)) is not None:
        pieces.append(piece)
    return pieces


def _count(pieces: list[Piece]) -> int:
    return sum(len(piece.tiles) for piece in pieces)


def _told(job: Job, crop: Crop, journal: Notes) -> Iterator[Piece]:
    """Read a job; what cannot be read is told and counted, if it is the fault of what is read."""
    done = 0
    try:
        for piece in job.read(crop):
            done += len(piece.tiles) + piece.errors
            yield piece
    except Exception as error:
        word, message = reason_of(error)
        if word in SYSTEM_REASONS:
            raise
        journal.note(job.name, f"{word}: {' '.join(message.split())[:300]}")
        yield Piece(-1, [], [], job.n_tiles - done)


def _table(pieces: list[Piece], turn: int, input_px: int, stain_augment: float, rng: np.random.Generator) -> pa.Table:
    where = [(piece.slide, tile) for piece in pieces for tile in piece.tiles]
    found_crops = [crop for piece in pieces for crop in piece.crops]
    crops = np.empty((len(found_crops), input_px, input_px, 3), np.uint8)
    order = rng.permutation(len(found_crops))
    for place, i in enumerate(order):
        crops[place] = found_crops[i]
    if stain_augment > 0 and len(crops):
        from uadray.tiles.stain_augment import augment

        crops = augment(crops, rng, sigma_alpha=stain_augment, sigma_beta=stain_augment)
    found = np.array(where, np.int32).reshape(-1, 2)[order]
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(3 * input_px**2), len(crops), [None, pa.py_buffer(crops)]),
        np.full(len(crops), turn, np.int32),
        found[:, 0],
        found[:, 1],
    ]
    schema = crop_schema(input_px)
    return pa.table([pa.array(c) if isinstance(c, np.ndarray) else c for c in columns], schema=schema)


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


@dataclass(frozen=True)
class SlideSource:
    """Random tiles of slides: `per_slide` of each and pass, drawn anew by (seed, pass, slide id).

    Large arrays instead of lists of small ones: all readers of a node share what Ray holds of them.

    Attributes:
        rows: the slides.
        etags: of each.
        n_tiles: [n_slides], tiles with tissue.
        packed: bytes; the corners of all tiles of all slides, in level-0 pixels (`passes.pack_corners`).
        offsets: [n_slides + 1], where each slide's corners begin in `packed`.
        whole: [n_slides], slides that are read through a local copy: all their tiles of a pass are one entry.
        stains: of each slide, where colours are normalised.
        spec: how tiles are cut and prepared.
        per_slide: tiles a slide and pass; None for all.
        seed: of the training.
    """

    rows: list[SlideRow]
    etags: list[str]
    n_tiles: Ints
    packed: npt.NDArray[np.uint8]
    offsets: Ints
    whole: npt.NDArray[np.bool_]
    stains: list[Stain | None]
    spec: TileSpec
    per_slide: int | None
    seed: int

    @cached_property
    def counts(self) -> Ints:
        """[n_slides], tiles a pass."""
        return self.n_tiles if self.per_slide is None else np.minimum(self.n_tiles, self.per_slide)

    @cached_property
    def parts(self) -> Ints:
        """[n_slides], entries a pass."""
        return np.where(self.whole, 1, -(-self.counts // ENTRY_TILES))

    @cached_property
    def entry_tiles(self) -> Ints:
        """[n_entries], tiles of each, slide after slide."""
        part = np.arange(self.parts.sum()) - np.repeat(self.parts.cumsum() - self.parts, self.parts)
        counts, parts = np.repeat(self.counts, self.parts), np.repeat(self.parts, self.parts)
        return counts // parts + (part < counts % parts)  # as np.array_split does

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[n_slides], each slide's share of a pass."""
        return np.asarray(self.counts / self.counts.sum())

    def jobs(self, turn: int, entries: Ints) -> list[Job]:
        """One job a slide: a slide is used by one thread at a time."""
        ends = self.parts.cumsum()
        slides = np.searchsorted(ends, entries, side="right")
        parts = entries - (ends - self.parts)[slides]
        wanted = {int(s): np.sort(parts[slides == s]) for s in np.unique(slides)}
        OPENED.hold({(self.rows[s].uri, self.etags[s]) for s in wanted})
        sizes = {s: int(self.entry_tiles[entries[slides == s]].sum()) for s in wanted}
        return [Job(self.rows[s].slide_id, sizes[s], partial(self._read, turn, s, part)) for s, part in wanted.items()]

    def corners(self, slide: int, some: Ints | None = None) -> tuple[npt.NDArray[np.int32], Ints]:
        """See `unpack_corners`."""
        return unpack_corners(self.packed[self.offsets[slide] : self.offsets[slide + 1]].tobytes(), some)

    def drawn(self, turn: int, slide: int) -> tuple[Ints, npt.NDArray[np.int32]]:
        """The numbers [n] of the tiles that pass `turn` draws from a slide, along a Z-curve; and their corners."""
        key = (self.seed, turn, zlib.crc32(self.rows[slide].slide_id.encode()))
        numbers = draw(int(self.n_tiles[slide]), int(self.counts[slide]), key)
        corners, cells = self.corners(slide, numbers)
        order = along_curve(*cells.T)
        return numbers[order], corners[order]

    def _read(self, turn: int, slide: int, parts: Ints, crop: Crop) -> Iterator[Piece]:
        tiles, corners = self.drawn(turn, slide)
        runs = np.array_split(np.arange(len(tiles)), self.parts[slide])
        if self.whole[slide]:  # one entry, but mixed by runs as others are
            runs = np.array_split(runs[0], -(-len(tiles) // ENTRY_TILES))
            parts = np.random.default_rng([self.seed, turn, slide, 1]).permutation(len(runs))
        chosen = np.concatenate([runs[part] for part in parts])
        tiles, corners = tiles[chosen], corners[chosen].astype(np.int64)
        table = pa.table({"x_level0_px": corners[:, 0], "y_level0_px": corners[:, 1]})
        opened = OPENED.get(self.rows[slide], self.etags[slide])
        normalise = normalizer_of(self.stains[slide], self.spec)
        places = tile_places(opened, *corners.T, mpp=self.spec.mpp, tile_px=self.spec.tile_px)
        opened.will_read(places.level, places.boxes)
        step = max(1, READ_BYTES // (3 * self.spec.tile_px**2))
        try:
            for start in range(0, len(tiles), step):
                chunk = read_chunk(opened, table.slice(start, step), spec=self.spec, normalise=normalise)
                good = [i for i in range(len(chunk.pixels)) if chunk.errors[i] is None and chunk.flags[i] is None]
                crops = [crop(chunk.pixels[i]) for i in good]
                yield Piece(slide, tiles[start:][good].tolist(), crops, len(chunk.pixels) - len(good))
        finally:
            if isinstance(opened, TiffSlide):
                opened.rest()


def is_staged(uri: str, slide: Slide) -> bool:
    """Whether an open slide holds a copy of the whole object on this node."""
    return objects.is_s3(uri) and not isinstance(slide, TiffSlide)


class OpenSlides:
    """The slides that this process keeps open from task to task, the least recently used closed first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[tuple[str, str], Slide] = OrderedDict()

    def hold(self, wanted: set[tuple[str, str]]) -> None:
        """Make room for a block's slides (uri, etag). Nothing may be reading.

        A slide that holds a local copy is closed as soon as it is not wanted: the node's cache is bounded.
        """
        missing = len(wanted - self._open.keys())
        for key in [key for key in self._open if key not in wanted]:
            if len(self._open) + missing > self._limit or is_staged(key[0], self._open[key]):
                self._open.pop(key).close()

    def get(self, row: SlideRow, etag: str) -> Slide:
        """An open slide; opened where it is not. One thread a slide."""
        key = (row.uri, etag)
        if key not in self._open:
            self._open[key] = open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag)
        self._open.move_to_end(key)
        return self._open[key]

    def __len__(self) -> int:
        return len(self._open)


OPENED = OpenSlides(OPEN_SLIDES)
"""Of this process."""


@dataclass(frozen=True)
class ShardSource:
    """Row groups of a Parquet tile set, a run of rows each.

    Attributes:
        runs: the entries.
        slides: [n_entries], number of the slide of each; -1 where the set does not say.
        entry_tiles: [n_entries], tiles of each that are taken.
        spec: only `min_tissue` and `mpp` are used.
        input_px: smaller tiles are left out.
        labels: tiles with one of these are taken; None for all.
    """

    runs: list[shards.RowRange]
    slides: Ints
    entry_tiles: Ints
    spec: TileSpec
    input_px: int
    labels: tuple[str | None, ...] | None

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[n_slides], each slide's share of a pass."""
        if (self.slides < 0).any():
            return np.empty(0)
        return np.asarray(np.bincount(self.slides, weights=self.entry_tiles) / self.entry_tiles.sum())

    def jobs(self, turn: int, entries: Ints) -> list[Job]:
        """One job an entry; every pass reads the same."""
        return [Job(self.runs[e].uri, int(self.entry_tiles[e]), partial(self._read, int(e))) for e in entries]

    def _read(self, entry: int, crop: Crop) -> Iterator[Piece]:
        run = self.runs[entry]
        for row, values in enumerate(shards.read_range(run)):
            tissue = values["tissue_fraction"]
            if self.labels is not None and values["label"] not in self.labels:
                continue
            if tissue is not None and tissue < self.spec.min_tissue:
                continue
            image = containers.decoded(values["image"] or b"")
            good = image is not None and usable(image, self.input_px, self.spec if tissue is None else None)
            crops = [crop(image)] if image is not None and good else []
            yield Piece(int(self.slides[entry]), [run.first_tile + row] if good else [], crops, int(image is None))


@dataclass(frozen=True)
class FileSource:
    """Images of a folder or zip, shuffled anew for every pass.

    Attributes:
        uri: of the set.
        refs: its tiles.
        spec: only `min_tissue` and `mpp` are used.
        input_px: smaller tiles are left out.
        seed: of the training.
    """

    uri: str
    refs: list[containers.TileRef]
    spec: TileSpec
    input_px: int
    seed: int

    @cached_property
    def entry_tiles(self) -> Ints:
        """[n_entries], tiles of each."""
        return np.array([len(p) for p in np.array_split(np.arange(len(self.refs)), self._n_entries)], np.int64)

    @property
    def _n_entries(self) -> int:
        return -(-len(self.refs) // ENTRY_TILES)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Unknown: images do not say from which slide they are."""
        return np.empty(0)

    def jobs(self, turn: int, entries: Ints) -> list[Job]:
        """One job for all: the set is opened once."""
        order = np.random.default_rng([self.seed, turn, 1]).permutation(len(self.refs))
        split = np.array_split(order, self._n_entries)
        numbers = np.concatenate([split[int(e)] for e in entries])
        name = f"{self.uri}, {len(numbers)} images of pass {turn}, {self.refs[numbers[0]].tile_id} the first"
        return [Job(name, len(numbers), partial(self._read, numbers))]

    def _read(self, numbers: Ints, crop: Crop) -> Iterator[Piece]:
        read = containers.read_tiles(self.uri, [self.refs[i] for i in numbers])
        for number, (_, image, error) in zip(numbers, read, strict=True):
            good = image is not None and usable(image, self.input_px, self.spec)
            crops = [crop(image)] if image is not None and good else []
            yield Piece(-1, [int(number)] if good else [], crops, int(error is not None))


def usable(pixels: Pixels, input_px: int, spec: TileSpec | None) -> bool:
    """Whether a lone tile is large enough and, where `spec` is given, has enough tissue."""
    return min(pixels.shape[:2]) >= input_px and (spec is None or enough_tissue(pixels, spec))


def enough_tissue(pixels: Pixels, spec: TileSpec) -> bool:
    """Whether a lone tile [h, w, 3] at `spec.mpp` has `spec.min_tissue` of tissue, by the mask that slides get."""
    factor = max(1, round(4.0 / spec.mpp))
    small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return bool(tissue_mask(np.asarray(small, dtype=np.uint8), spec.mpp * factor).mean() >= spec.min_tissue)
