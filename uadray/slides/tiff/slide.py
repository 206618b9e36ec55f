"""A tiled TIFF, SVS or OME-TIFF, read tile by tile, from a disk or straight from S3.

`index` says where each file tile lies, `byte_source` reads it, `jpeg` or `lossless` decodes it. For JPEG the pixels are
those of OpenSlide, byte for byte (a test asserts it), where tag and JPEG agree on what the colours are: both decode
with libjpeg-turbo. It is faster because it does without OpenSlide's compositor.

Left to OpenSlide are JPEG 2000 and all compressions but JPEG, LZW and deflate, planes, strips, grey or 16-bit pixels,
and the TIFFs of Hamamatsu, Leica, Philips, Trestle, Ventana, Huron and Argos.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from uadray.errors import SlideError, UadrayError
from uadray.slides.levels import factors
from uadray.slides.slide import Boxes, Rgb
from uadray.slides.tiff.byte_source import ByteSource, Span, slide_error
from uadray.slides.tiff.decoded_tiles import DecodedTiles
from uadray.slides.tiff.index import TiffIndex
from uadray.slides.tiff.jpeg import TileDecoder
from uadray.slides.tiff.level_tiles import TiffLevel
from uadray.slides.tiff.lossless import LosslessDecoder
from uadray.slides.tiff.read_ahead import Announcement, touched_tiles
from uadray.slides.tiff.tags import JPEG
from uadray.stage_seconds import timed

READ_BYTES = 8 * 2**20
"""Encoded bytes that one region asks S3 for at once, where nothing was announced."""

_Tile = tuple[int, bytes | None]
"""Number of a file tile and, where they have been read already, its bytes."""


class TiffSlide:
    """A slide whose file tiles are decoded here. Safe to read from several threads; closing it closes `source`."""

    def __init__(self, source: ByteSource, index: TiffIndex, *, slide_id: str, mpp: float) -> None:
        self.slide_id, self.mpp = slide_id, mpp
        self.level_sizes_px = tuple(level.size_px for level in index.levels)
        self.downsamples = tuple(factors(index.levels[0].size_px, level.size_px) for level in index.levels)
        self.tile_sizes_px = tuple(level.tile_px for level in index.levels)
        self.unused_levels = index.left_out
        self.bounds_px: tuple[int, int, int, int] | None = None
        self._source, self._levels = source, index.levels
        self._complete = [bool(level.lengths.all()) for level in index.levels]
        self._decoders = [_decoder(level) for level in index.levels]
        self._decoded = DecodedTiles()
        self._announced: Announcement | None = None

    def missing_share(self, level: int, boxes: Boxes) -> npt.NDArray[np.float64]:
        """See `Slide.missing_share`."""
        at = self._levels[level]
        share = np.zeros(len(boxes))
        if self._complete[level]:
            return share
        box, tile = touched_tiles(at, boxes)
        absent = at.lengths[tile] == 0
        box, tile = box[absent], tile[absent]
        overlap = np.ones(len(box), np.int64)
        for axis, number in enumerate(divmod(tile.astype(np.int64), at.columns)[::-1]):
            first, stop = boxes[box, axis], boxes[box, axis] + boxes[box, 2 + axis]
            begin, end = number * at.tile_px[axis], np.minimum((number + 1) * at.tile_px[axis], at.size_px[axis])
            overlap *= np.minimum(stop, end) - np.maximum(first, begin)
        np.add.at(share, box, overlap)
        return share / (boxes[:, 2] * boxes[:, 3])

    def will_read(self, level: int, boxes: Boxes) -> None:
        """See `Slide.will_read`. On a disk it only tells which decoded file tiles are needed again."""
        self._forget()
        read = self._source.read if self._source.remote else None
        self._announced = Announcement(level, self._levels[level], boxes, read)

    def read_region(self, level: int, x: int, y: int, width: int, height: int, out: Rgb | None = None) -> Rgb:
        """See `Slide.read_region`. What lies within one file tile is a view of it."""
        announced = self._announced
        if announced is not None and not announced.is_next(level, (x, y, width, height)):
            announced = None
        try:
            return self._region(level, (x, y, width, height), announced, out)
        except UadrayError as error:
            raise slide_error(self.slide_id, error) from error
        except ValueError as error:
            raise self._damaged(level, x, y, error) from error
        finally:
            if announced is not None:
                announced.advance()

    def _damaged(self, level: int, x: int, y: int, error: ValueError) -> SlideError:
        corner = tuple(round(at * factor) for at, factor in zip((x, y), self.downsamples[level], strict=True))
        return SlideError(self.slide_id, "unreadable", f"pixels at {corner} cannot be read: {error}")

    def _region(
        self, level: int, box: tuple[int, int, int, int], announced: Announcement | None, out: Rgb | None
    ) -> Rgb:
        """The pixels of a box; `announced` is given where the box is the next one that was announced."""
        at, (x, y, width, height) = self._levels[level], box
        tile_w, tile_h = at.tile_px
        left, right = max(x, 0), min(x + width, at.size_px[0])
        top, bottom = max(y, 0), min(y + height, at.size_px[1])
        rows = range(top // tile_h, -(-bottom // tile_h)) if left < right else range(0)
        columns = range(left // tile_w, -(-right // tile_w)) if top < bottom else range(0)
        numbers = [row * at.columns + column for row in rows for column in columns]
        there = [number for number in numbers if at.lengths[number]]  # the others are white
        is_covered = right - left == width and bottom - top == height and len(there) == len(numbers)
        if is_covered and len(there) == 1:
            in_place = out if (width, height) == at.tile_px else None
            tile = self._tile(level, there[0], announced, None, in_place)
            tile = tile[top - rows[0] * tile_h :, left - columns[0] * tile_w :][:height, :width]
            if out is None or in_place is not None:
                return tile
            out[:] = tile
            return out
        if out is None:
            out = np.empty((height, width, 3), np.uint8)
        if not is_covered:
            out[:] = 255
        for group in self._in_groups(level, there, announced):
            for number, data in group:
                tile = self._tile(level, number, announced, data)
                row, column = divmod(number, at.columns)
                x0, y0 = max(left, column * tile_w), max(top, row * tile_h)
                x1, y1 = min(right, (column + 1) * tile_w), min(bottom, (row + 1) * tile_h)
                overlap = tile[y0 - row * tile_h : y1 - row * tile_h, x0 - column * tile_w : x1 - column * tile_w]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = overlap
        return out

    def _in_groups(self, level: int, numbers: list[int], announced: Announcement | None) -> Iterator[list[_Tile]]:
        """File tiles, with their bytes where it pays to read those of several at once: in S3, unannounced."""
        if announced or not self._source.remote or not numbers:
            yield [(number, None) for number in numbers]
            return
        at = self._levels[level]
        group_of = np.cumsum(at.lengths[numbers]) // READ_BYTES
        for group in np.unique(group_of):
            together = [n for n, its_group in zip(numbers, group_of, strict=True) if its_group == group]
            absent = [n for n in together if (level, n) not in self._decoded]
            with timed("read"):
                blobs: dict[int, bytes] = dict(zip(absent, self._source.read(_spans(at, absent)), strict=True))
            yield [(n, blobs.get(n)) for n in together]

    def _tile(
        self, level: int, number: int, announced: Announcement | None, data: bytes | None = None, out: Rgb | None = None
    ) -> Rgb:
        """One file tile, decoded: kept from before, or from `data`, or from bytes that are read now.

        It is written to `out` where that is given.
        """
        again = announced.use(number) if announced else out is None
        tile = self._decoded.take((level, number), again=again)
        if tile is None:
            data = data or self._bytes(level, number)
            if out is not None and not again:
                with timed("decode"):
                    return self._decoders[level].decode(data, out)
            with timed("decode"):
                tile = self._decoders[level].decode(data)
            tile.flags.writeable = False
            if again:
                self._decoded.keep((level, number), tile)
        if out is None:
            return tile
        out[:] = tile
        return out

    def _bytes(self, level: int, number: int) -> bytes:
        """The encoded bytes of a file tile, from those that were fetched ahead or from the file."""
        announced = self._announced
        ahead = announced.ahead if announced and announced.level == level else None
        with timed("read"):
            data = ahead.take(number) if ahead else None
            return data or self._source.read(_spans(self._levels[level], [number]))[0]

    def _forget(self) -> None:
        if self._announced:
            self._announced.close()
            self._announced = None

    def encoded_tile(self, level: int, x: int, y: int, width: int, height: int) -> bytes | None:
        """The file's own JPEG of a region that is exactly one of its JPEG tiles, as a stream of its own; else None.

        A region that was announced may be asked for here before it is read.

        Raises:
            SlideError: as `read_region`.
        """
        at = self._levels[level]
        inside = x >= 0 and y >= 0 and x + width <= at.size_px[0] and y + height <= at.size_px[1]
        if (width, height) != at.tile_px or x % width or y % height or not inside:
            return None
        number = y // height * at.columns + x // width
        decoder = self._decoders[level]
        if not at.lengths[number] or not isinstance(decoder, TileDecoder):
            return None
        try:
            return decoder.whole(self._bytes(level, number))
        except UadrayError as error:
            raise slide_error(self.slide_id, error) from error
        except ValueError as error:
            raise self._damaged(level, x, y, error) from error

    def encoded_bytes(self, level: int, boxes: Boxes) -> int:
        """Bytes of all file tiles that these boxes touch, each counted once; nothing is read."""
        at = self._levels[level]
        return int(at.lengths[np.unique(touched_tiles(at, boxes)[1])].sum())

    def rest(self) -> None:
        """Free what is kept decoded or fetched ahead, of a slide that stays open for later."""
        self._forget()
        self._decoded.clear()

    def close(self) -> None:
        """Free the file, and stop fetching ahead."""
        self.rest()
        self._source.close()

    def __enter__(self) -> Self:
        """Use in a `with` statement."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the file."""
        self.close()


def _spans(level: TiffLevel, numbers: Sequence[int]) -> list[Span]:
    """Where the bytes of these file tiles lie in the file."""
    return [(start := int(level.offsets[n]), start + int(level.lengths[n])) for n in numbers]


def _decoder(level: TiffLevel) -> TileDecoder | LosslessDecoder:
    """What decodes the file tiles of a level."""
    if level.compression == JPEG:
        return TileDecoder(level.tile_px, rgb=level.rgb, tables=level.tables)
    return LosslessDecoder(level.tile_px, compression=level.compression, predictor=level.predictor)
