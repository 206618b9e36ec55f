"""Readers of the training ingest: blocks of tiles -> blocks of random crops. Plain Python; Ray only carries it.

A source knows its entries (see `uadray.data.passes`) and reads any of them: `SlideSource` cuts tiles from slides,
`ShardSource` decodes row groups of a Parquet tile set, `FileSource` the images of a folder or zip.
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

from uadray import storage
from uadray.data import shards, tilesets
from uadray.data.passes import ENTRY_TILES, Ints, Passes, draw
from uadray.data.reading import normalizer_of, read_chunks
from uadray.manifest import SlideRow
from uadray.monitoring import metrics
from uadray.slides.reader import Slide, open_slide
from uadray.slides.tiff import TiffSlide
from uadray.stain import Stain
from uadray.tiling import TileSpec
from uadray.tissue import tissue_mask

Pixels = npt.NDArray[np.uint8]

OPEN_SLIDES = 64
"""Slides that a reader process keeps open at the most, unless a single block needs more."""

THREADS = 8
"""Slides (or shards) that a reader waits for at once: storage answers slowly, decoding is quick."""


@dataclass(frozen=True)
class Piece:
    """Tiles of one slide, shard or file list that were read together; those that cannot be read are left out.

    Attributes:
        slide: number of the slide; -1 where the set does not say.
        tiles: [n], the number of each tile within its slide (or within the set, without slides).
        pixels: [n] RGB [h, w, 3].
        errors: tiles that could not be read.
    """

    slide: int
    tiles: list[int]
    pixels: list[Pixels]
    errors: int


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

    def jobs(self, turn: int, entries: Ints) -> list[Callable[[], Piece]]:
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
    source: Source, passes: Passes, task: int, *, input_px: int, stain_augment: float
) -> Iterator[pa.Table]:
    """A read task: its blocks, each shuffled, schema `crop_schema`."""
    with metrics.stage("train_read") as meter, ThreadPoolExecutor(THREADS) as threads:
        for turn, block, entries in passes.blocks(task, source.entry_tiles):
            pieces = list(threads.map(lambda job: job(), source.jobs(turn, entries)))
            rng = np.random.default_rng([passes.seed, turn, block])
            table = _table(pieces, turn, input_px, stain_augment, rng)
            meter.add(tiles=len(table), bytes_=table.nbytes, errors=sum(p.errors for p in pieces))
            yield table


def _table(pieces: list[Piece], turn: int, input_px: int, stain_augment: float, rng: np.random.Generator) -> pa.Table:
    where = [(piece.slide, tile) for piece in pieces for tile in piece.tiles]
    tiles = [pixels for piece in pieces for pixels in piece.pixels]
    crops = np.empty((len(tiles), input_px, input_px, 3), np.uint8)
    order = rng.permutation(len(tiles))
    for place, i in enumerate(order):
        crops[place] = random_crop(tiles[i], input_px, rng)
    if stain_augment > 0 and len(crops):
        from uadray.stain import augment

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
    return np.ascontiguousarray(np.rot90(crop, int(rng.integers(4))))


@dataclass(frozen=True)
class SlideSource:
    """Random tiles of slides: `per_slide` of each and pass, drawn anew by (seed, pass, slide id).

    Attributes:
        rows: the slides.
        etags: of each.
        corners: [n, 2] x and y in level-0 pixels of all tiles with tissue, slide after slide, each along a Z-curve.
        offsets: [n_slides + 1], where each slide's tiles begin.
        whole: [n_slides], slides that are read through a local copy: all their tiles of a pass are one entry.
        stains: of each slide, where colours are normalised.
        spec: how tiles are cut and prepared.
        per_slide: tiles a slide and pass; None for all.
        seed: of the training.
    """

    rows: list[SlideRow]
    etags: list[str]
    corners: npt.NDArray[np.int32]
    offsets: Ints
    whole: npt.NDArray[np.bool_]
    stains: list[Stain | None]
    spec: TileSpec
    per_slide: int | None
    seed: int

    @cached_property
    def counts(self) -> Ints:
        """[n_slides], tiles a pass."""
        n = np.diff(self.offsets)
        return n if self.per_slide is None else np.minimum(n, self.per_slide)

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

    def jobs(self, turn: int, entries: Ints) -> list[Callable[[], Piece]]:
        """One job a slide: a slide is used by one thread at a time."""
        ends = self.parts.cumsum()
        slides = np.searchsorted(ends, entries, side="right")
        parts = entries - (ends - self.parts)[slides]
        wanted = {int(s): np.sort(parts[slides == s]) for s in np.unique(slides)}
        OPENED.hold({(self.rows[s].uri, self.etags[s]) for s in wanted})
        return [partial(self._read, turn, slide, part) for slide, part in wanted.items()]

    def tiles(self, turn: int, slide: int) -> Ints:
        """The numbers of the tiles that pass `turn` draws from a slide."""
        key = (self.seed, turn, zlib.crc32(self.rows[slide].slide_id.encode()))
        return draw(int(self.offsets[slide + 1] - self.offsets[slide]), int(self.counts[slide]), key)

    def _read(self, turn: int, slide: int, parts: Ints) -> Piece:
        split = np.array_split(self.tiles(turn, slide), self.parts[slide])
        tiles = np.concatenate([split[part] for part in parts])
        corners = self.corners[self.offsets[slide] : self.offsets[slide + 1]][tiles].astype(np.int64)
        table = pa.table({"x_level0_px": corners[:, 0], "y_level0_px": corners[:, 1]})
        opened = OPENED.get(self.rows[slide], self.etags[slide])
        normalise = normalizer_of(self.stains[slide], self.spec)
        chunks = list(read_chunks(opened, table, spec=self.spec, normalise=normalise))
        if isinstance(opened, TiffSlide):
            opened.rest()
        pixels = [image for chunk in chunks for image in chunk.pixels]
        bad = [error or flag for chunk in chunks for error, flag in zip(chunk.errors, chunk.flags, strict=True)]
        good = [i for i, why in enumerate(bad) if why is None]
        return Piece(slide, tiles[good].tolist(), [pixels[i] for i in good], len(tiles) - len(good))


def is_staged(uri: str, slide: Slide) -> bool:
    """Whether an open slide holds a copy of the whole object on this node."""
    return storage.is_s3(uri) and not isinstance(slide, TiffSlide)


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

    runs: list[shards.Run]
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

    def jobs(self, turn: int, entries: Ints) -> list[Callable[[], Piece]]:
        """One job an entry; every pass reads the same."""
        return [partial(self._read, int(e)) for e in entries]

    def _read(self, entry: int) -> Piece:
        run, errors = self.runs[entry], 0
        tiles: list[int] = []
        pixels: list[Pixels] = []
        for row, values in enumerate(shards.read_run(run)):
            tissue = values["tissue_fraction"]
            if self.labels is not None and values["label"] not in self.labels:
                continue
            if tissue is not None and tissue < self.spec.min_tissue:
                continue
            image = tilesets.decoded(values["image"] or b"")
            errors += image is None
            if image is not None and usable(image, self.input_px, self.spec if tissue is None else None):
                tiles.append(run.first_tile + row)
                pixels.append(image)
        return Piece(int(self.slides[entry]), tiles, pixels, errors)


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
    refs: list[tilesets.TileRef]
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

    def jobs(self, turn: int, entries: Ints) -> list[Callable[[], Piece]]:
        """One job for all: the set is opened once."""
        order = np.random.default_rng([self.seed, turn, 1]).permutation(len(self.refs))
        split = np.array_split(order, self._n_entries)
        numbers = np.concatenate([split[int(e)] for e in entries])
        return [partial(self._read, numbers)]

    def _read(self, numbers: Ints) -> Piece:
        errors = 0
        tiles: list[int] = []
        pixels: list[Pixels] = []
        read = tilesets.read_tiles(self.uri, [self.refs[i] for i in numbers])
        for number, (_, image, error) in zip(numbers, read, strict=True):
            errors += error is not None
            if image is not None and usable(image, self.input_px, self.spec):
                tiles.append(int(number))
                pixels.append(image)
        return Piece(-1, tiles, pixels, errors)


def usable(pixels: Pixels, input_px: int, spec: TileSpec | None) -> bool:
    """Whether a lone tile is large enough and, where `spec` is given, has enough tissue."""
    return min(pixels.shape[:2]) >= input_px and (spec is None or enough_tissue(pixels, spec))


def enough_tissue(pixels: Pixels, spec: TileSpec) -> bool:
    """Whether a lone tile [h, w, 3] at `spec.mpp` has `spec.min_tissue` of tissue, by the mask that slides get."""
    factor = max(1, round(4.0 / spec.mpp))
    small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return bool(tissue_mask(np.asarray(small, dtype=np.uint8), spec.mpp * factor).mean() >= spec.min_tissue)
