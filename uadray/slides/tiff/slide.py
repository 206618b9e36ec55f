"""The fast path: tiled TIFF, SVS and OME-TIFF, read tile by tile, from a disk or straight from S3.

`tiff_index` says where each tile lies, `byte_source` reads it, `jpeg_tiles` or `lossless_tiles` decodes it. Of JPEG the
pixels are OpenSlide's own, byte for byte (a test asserts it), where tag and JPEG agree on what the colours are: both
end in libjpeg-turbo. What it leaves out is OpenSlide's compositor.

Not decoded here, and left to OpenSlide: JPEG 2000 and all compressions but JPEG, LZW and deflate, planes, strips, grey
or 16-bit pixels, and the TIFFs of Hamamatsu, Leica, Philips, Trestle, Ventana, Huron and Argos.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from uadray.errors import SlideError, UadrayError
from uadray.slides.levels import factors
from uadray.slides.slide import DECODED_BYTES, Boxes, Rgb
from uadray.slides.tiff.byte_source import ByteSource, Span, slide_error
from uadray.slides.tiff.header import BadTiffError, TiffLimitError
from uadray.slides.tiff.index import TiffIndex, read_index
from uadray.slides.tiff.jpeg import TileDecoder
from uadray.slides.tiff.level_tiles import TiffLevel
from uadray.slides.tiff.lossless import LosslessDecoder
from uadray.slides.tiff.read_ahead import Plan, touched_tiles
from uadray.slides.tiff.tags import JPEG

READ_BYTES = 8 * 2**20
"""Encoded bytes that one region asks S3 for at once, where nothing was announced."""

TWO_LARGE_TILES_BYTES = 256 * 2**20
"""Two file tiles are kept decoded, even if they are more than `DECODED_BYTES`, where they are not more than this."""

COMPARED_TILES, COMPARED_PX = 3, 2048
"""Of a level that the file does not mark as one: file tiles that are compared with the next finer level, and pixels of
that, a side."""

_Tile = tuple[int, bytes | None]
"""Number and, where they have been read already, bytes."""


def index_of(source: ByteSource, *, slide_id: str) -> TiffIndex | None:
    """What a TIFF holds, whoever decodes it; None where this is none, or only OpenSlide understands it.

    Raises:
        SlideError: `unreadable` (damaged), `too_large` (beyond what is read here), `several_images` (some would not be
            read), `colours` (OpenSlide would show others), or what `slide_error` makes of storage's errors.
    """
    try:
        index = read_index(source)
    except UadrayError as error:
        raise slide_error(slide_id, error) from error
    except TiffLimitError as error:
        raise SlideError(slide_id, "too_large", f"{source.name} is beyond what is read here: {error}") from error
    except (BadTiffError, ValueError) as error:
        raise _damaged_file(source, slide_id, error) from error
    if index is not None and index.others:
        images = ", ".join(index.others[:5]) + (f" and {len(index.others) - 5} more" if len(index.others) > 5 else "")
        raise SlideError(
            slide_id,
            "several_images",
            f"{source.name} holds several images of a slide's size; {index.levels[0].name} would be read, and not "
            f"{images}: save each as a file of its own, or, if one is a smaller level, mark it so (NewSubfileType 1)",
        )
    if index is not None and index.colours:
        raise SlideError(
            slide_id,
            "colours",
            f"{source.name}: {index.colours}. OpenSlide, which reads this format, goes by what it is called, and would "
            "show other colours; convert it, or mend the tag PhotometricInterpretation",
        )
    return index


def _damaged_file(source: ByteSource, slide_id: str, error: Exception) -> SlideError:
    return SlideError(slide_id, "unreadable", f"{source.name} is damaged: {error}")


class TiffSlide:
    """A slide whose levels are tiles that are decoded here. Safe to read from several threads; owns `source`."""

    def __init__(self, source: ByteSource, index: TiffIndex, *, slide_id: str, mpp: float) -> None:
        self.slide_id, self.mpp = slide_id, mpp
        self.level_sizes_px = tuple(level.size_px for level in index.levels)
        self.downsamples = _downsamples(index.levels)
        self.tile_sizes_px = tuple(level.tile_px for level in index.levels)
        self.unused_levels = index.left_out
        self._source, self._levels = source, index.levels
        self._complete = [bool(level.lengths.all()) for level in index.levels]
        self._decoders = [_decoder(level) for level in index.levels]
        self._decoded: OrderedDict[tuple[int, int], Rgb] = OrderedDict()
        self._decoded_bytes = 0
        self._lock = threading.Lock()
        self._plan: Plan | None = None

    @classmethod
    def open(cls, source: ByteSource, index: TiffIndex, *, slide_id: str, mpp: float) -> Self:
        """Open what `index_of` found.

        Raises:
            SlideError: `unreadable`, or `several_images`: what looks like a smaller level by its size shows something
                else; or what `slide_error` makes of storage's errors.
        """
        try:
            slide = cls(source, index, slide_id=slide_id, mpp=mpp)
        except ValueError as error:
            raise _damaged_file(source, slide_id, error) from error
        for number, level in enumerate(index.levels):
            if level.unproven and not slide._shows_the_slide(number):
                raise SlideError(
                    slide_id,
                    "several_images",
                    f"{source.name}: {level.name} has the size of a smaller level and does not show what "
                    f"{index.levels[0].name} shows, so it would not be read: save each image as a file of its own",
                )
        slide.rest()
        return slide

    def _shows_the_slide(self, level: int) -> bool:
        """Whether a level is the next finer one, made smaller: compared where there is most to see, much reduced."""
        at, finer = self._levels[level], self._levels[level - 1]
        scale = factors(finer.size_px, at.size_px)
        for number in np.argsort(-at.lengths, kind="stable")[:COMPARED_TILES].tolist():
            row, column = divmod(number, at.columns)
            corner = (column * at.tile_px[0], row * at.tile_px[1])
            size = [
                min(at.tile_px[i], at.size_px[i] - corner[i], max(1, int(COMPARED_PX / scale[i]))) for i in range(2)
            ]
            box = [round(value * scale[i % 2]) for i, value in enumerate((*corner, *size))]
            own = self.read_region(level, *corner, *size)
            whole = self.read_region(level - 1, box[0], box[1], max(1, box[2]), max(1, box[3]))
            few = (max(1, size[0] // 8), max(1, size[1] // 8))
            a, b = (cv2.resize(each, few, interpolation=cv2.INTER_AREA).astype(np.float64) for each in (own, whole))
            # what is not the same differs by more than it varies, and what is by a fraction of that
            if np.abs(a - b).mean() > 3 + np.abs(b - b.mean((0, 1))).mean() / 2:
                return False
        return True

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
        """See `Slide.will_read`. On a disk it only tells which decoded tiles are needed again."""
        self._forget()
        self._plan = Plan(level, self._levels[level], boxes, self._source.read if self._source.remote else None)

    def read_region(self, level: int, x: int, y: int, width: int, height: int, out: Rgb | None = None) -> Rgb:
        """See `Slide.read_region`. What lies within one file tile is a view of it."""
        plan = self._plan
        planned = plan is not None and plan.is_next(level, (x, y, width, height))
        try:
            return self._region(level, (x, y, width, height), plan if planned else None, out)
        except UadrayError as error:
            raise slide_error(self.slide_id, error) from error
        except ValueError as error:
            raise self._damaged(level, x, y, error) from error
        finally:
            if plan and planned:
                plan.advance()

    def _damaged(self, level: int, x: int, y: int, error: ValueError) -> SlideError:
        corner = tuple(round(at * factor) for at, factor in zip((x, y), self.downsamples[level], strict=True))
        return SlideError(self.slide_id, "unreadable", f"pixels at {corner} cannot be read: {error}")

    def _region(self, level: int, box: tuple[int, int, int, int], plan: Plan | None, out: Rgb | None) -> Rgb:
        at, (x, y, width, height) = self._levels[level], box
        tile_w, tile_h = at.tile_px
        left, right = max(x, 0), min(x + width, at.size_px[0])
        top, bottom = max(y, 0), min(y + height, at.size_px[1])
        rows = range(top // tile_h, -(-bottom // tile_h)) if left < right else range(0)
        columns = range(left // tile_w, -(-right // tile_w)) if top < bottom else range(0)
        numbers = [row * at.columns + column for row in rows for column in columns]
        there = [number for number in numbers if at.lengths[number]]  # others are white
        whole = right - left == width and bottom - top == height and len(there) == len(numbers)
        if whole and len(there) == 1:
            own = out if (width, height) == at.tile_px else None  # decoded in place
            tile = self._tile(level, there[0], plan, None, own)
            tile = tile[top - rows[0] * tile_h :, left - columns[0] * tile_w :][:height, :width]
            if out is None or own is not None:
                return tile
            out[:] = tile
            return out
        if out is None:
            out = np.empty((height, width, 3), np.uint8)
        if not whole:
            out[:] = 255
        for some in self._in_groups(level, there, plan):
            for number, data in some:
                tile = self._tile(level, number, plan, data)
                row, column = divmod(number, at.columns)
                x0, y0 = max(left, column * tile_w), max(top, row * tile_h)
                x1, y1 = min(right, (column + 1) * tile_w), min(bottom, (row + 1) * tile_h)
                part = tile[y0 - row * tile_h : y1 - row * tile_h, x0 - column * tile_w : x1 - column * tile_w]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return out

    def _in_groups(self, level: int, numbers: list[int], plan: Plan | None) -> Iterator[list[_Tile]]:
        """File tiles, with their bytes where it pays to read those of several at once: in S3, unannounced."""
        if plan or not self._source.remote or not numbers:
            yield [(number, None) for number in numbers]
            return
        at = self._levels[level]
        group = np.cumsum(at.lengths[numbers]) // READ_BYTES
        for number in np.unique(group):
            together = [n for n, its in zip(numbers, group, strict=True) if its == number]
            absent = [n for n in together if (level, n) not in self._decoded]
            blobs: dict[int, bytes] = dict(zip(absent, self._source.read(_spans(at, absent)), strict=True))
            yield [(n, blobs.get(n)) for n in together]

    def _tile(
        self, level: int, number: int, plan: Plan | None, data: bytes | None = None, out: Rgb | None = None
    ) -> Rgb:
        """One file tile, decoded: kept from before, or from `data`, or from bytes that are fetched now.

        Into `out`, if that is given.
        """
        key = (level, number)
        again = plan.use(number) if plan else out is None
        with self._lock:
            tile = self._decoded.get(key)
            if tile is not None:
                if again:
                    self._decoded.move_to_end(key)
                else:
                    self._decoded_bytes -= self._decoded.pop(key).nbytes
        if tile is None:
            data = data or self._bytes(level, number)
            if out is not None and not again:
                return self._decoders[level].decode(data, out)
            tile = self._decoders[level].decode(data)
            tile.flags.writeable = False
            if again:
                self._keep(key, tile)
        if out is None:
            return tile
        out[:] = tile
        return out

    def _bytes(self, level: int, number: int) -> bytes:
        plan = self._plan
        ahead = plan.ahead if plan and plan.level == level else None
        data = ahead.take(number) if ahead else None
        return data or self._source.read(_spans(self._levels[level], [number]))[0]

    def _keep(self, key: tuple[int, int], tile: Rgb) -> None:
        with self._lock:
            if key not in self._decoded:
                self._decoded[key] = tile
                self._decoded_bytes += tile.nbytes
            room = max(DECODED_BYTES, tile.nbytes, min(2 * tile.nbytes, TWO_LARGE_TILES_BYTES))
            while self._decoded_bytes > room:
                self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes

    def _forget(self) -> None:
        if self._plan:
            self._plan.close()
            self._plan = None

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
        with self._lock:
            self._decoded.clear()
            self._decoded_bytes = 0

    def close(self) -> None:
        """Free the file, and stop what is fetched ahead."""
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
    return [(start := int(level.offsets[n]), start + int(level.lengths[n])) for n in numbers]


def _downsamples(levels: Sequence[TiffLevel]) -> tuple[tuple[float, float], ...]:
    """Of each level against the first, along x and y."""
    return tuple(factors(levels[0].size_px, level.size_px) for level in levels)


def _decoder(level: TiffLevel) -> TileDecoder | LosslessDecoder:
    if level.compression == JPEG:
        return TileDecoder(level.tile_px, rgb=level.rgb, tables=level.tables)
    return LosslessDecoder(level.tile_px, compression=level.compression, predictor=level.predictor)
