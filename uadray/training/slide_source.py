"""Random tiles of slides, and the slides that a reader keeps open."""

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.slides.tiff.slide import TiffSlide
from uadray.storage import objects
from uadray.tiles.chunks import normalizer_of, places_of, read_chunk
from uadray.tiles.sampling import draw
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain
from uadray.training.crops import Crop, Crops, Job
from uadray.training.passes import ENTRY_TILES, Ints, along_curve, unpack_corners

OPEN_SLIDES = 64
"""Slides that a reader process keeps open at the most, unless a single block needs more."""

READ_BYTES = 4 * 2**20
"""Whole tiles of a slide that a thread reads at once: 21 of 256 px."""


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
    def n_entries(self) -> Ints:
        """[n_slides], entries a pass."""
        return np.where(self.whole, 1, -(-self.counts // ENTRY_TILES))

    @cached_property
    def entry_tiles(self) -> Ints:
        """[n_entries], tiles of each, slide after slide."""
        n_entries = np.repeat(self.n_entries, self.n_entries)
        counts = np.repeat(self.counts, self.n_entries)
        within_slide = np.arange(len(n_entries)) - np.repeat(self.n_entries.cumsum() - self.n_entries, self.n_entries)
        return counts // n_entries + (within_slide < counts % n_entries)  # as np.array_split does

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[n_slides], each slide's share of a pass."""
        return np.asarray(self.counts / self.counts.sum())

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        """One job a slide: a slide is used by one thread at a time."""
        ends = self.n_entries.cumsum()
        slides = np.searchsorted(ends, entries, side="right")
        within_slide = entries - (ends - self.n_entries)[slides]
        entries_of = {int(s): np.sort(within_slide[slides == s]) for s in np.unique(slides)}
        OPENED.hold({(self.rows[s].uri, self.etags[s]) for s in entries_of})
        sizes = {s: int(self.entry_tiles[entries[slides == s]].sum()) for s in entries_of}
        return [
            Job(self.rows[s].slide_id, sizes[s], partial(self._read, pass_number, s, numbers))
            for s, numbers in entries_of.items()
        ]

    def corners(self, slide: int, numbers: Ints | None = None) -> tuple[npt.NDArray[np.int32], Ints]:
        """Corners of a slide's tiles, see `unpack_corners`."""
        return unpack_corners(self.packed[self.offsets[slide] : self.offsets[slide + 1]].tobytes(), numbers)

    def drawn(self, pass_number: int, slide: int) -> tuple[Ints, npt.NDArray[np.int32]]:
        """The numbers [n] of the tiles that a pass draws from a slide, along a Z-curve; and their corners."""
        key = (self.seed, pass_number, zlib.crc32(self.rows[slide].slide_id.encode()))
        numbers = draw(int(self.n_tiles[slide]), int(self.counts[slide]), key)
        corners, cells = self.corners(slide, numbers)
        order = along_curve(*cells.T)
        return numbers[order], corners[order]

    def chosen(self, pass_number: int, slide: int, entries: Ints) -> tuple[Ints, Ints]:
        """The numbers [n] of the tiles in some of a slide's entries of a pass, in the order of reading; and corners."""
        tiles, corners = self.drawn(pass_number, slide)
        split = np.array_split(np.arange(len(tiles)), self.n_entries[slide])
        if self.whole[slide]:  # one entry, but mixed by entries as others are
            split = np.array_split(split[0], -(-len(tiles) // ENTRY_TILES))
            entries = np.random.default_rng([self.seed, pass_number, slide, 1]).permutation(len(split))
        order = np.concatenate([split[entry] for entry in entries])
        return tiles[order], corners[order].astype(np.int64)

    def _read(self, pass_number: int, slide: int, entries: Ints, crop: Crop) -> Iterator[Crops]:
        tiles, corners = self.chosen(pass_number, slide, entries)
        table = pa.table({"x_level0_px": corners[:, 0], "y_level0_px": corners[:, 1]})
        opened = OPENED.get(self.rows[slide], self.etags[slide])
        normalise = normalizer_of(self.stains[slide], self.spec)
        places = places_of(opened, table, self.spec)
        opened.will_read(places.level, places.boxes)
        step = max(1, READ_BYTES // (3 * self.spec.tile_px**2))
        try:
            for start in range(0, len(tiles), step):
                chunk = read_chunk(opened, table.slice(start, step), spec=self.spec, normalise=normalise)
                good = [i for i in range(len(chunk.pixels)) if chunk.errors[i] is None and chunk.flags[i] is None]
                crops = [crop(chunk.pixels[i]) for i in good]
                yield Crops(slide, tiles[start:][good].tolist(), crops, len(chunk.pixels) - len(good))
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
"""The slides that this process keeps open."""
