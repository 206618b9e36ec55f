"""The tile index of a TIFF: which bytes are which tile. Nothing here decodes a pixel, and nothing is believed.

Read once when a slide is opened: the header, the chain of directories, and then the arrays of all levels in one go, so
that a slide in S3 costs one round trip a level and a few more. (tifffile, the peer the tests compare with, asks for
each tag by itself, and has a tuple of Python integers for each array.) Sources: TIFF 6.0; BigTIFF; JPEG in TIFF:
Technical Note 2; Aperio's and OpenSlide's descriptions of SVS; the OME-TIFF specification, sub-resolutions in SubIFDs.

A file that claims the impossible (10^9 tiles, tiles beyond its end, directories in a circle) is refused with
`BadTiffError` before anything of the claimed size is allocated.
"""

import html
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.slides.byte_source import ByteSource, Span

MAX_FILE_TILES = 4_000_000
"""Of a level: a slide of 500,000 x 500,000 px in tiles of 256 px."""

MAX_TILE_PX = 4096
"""Side of a file tile; scanners write 240 to 1024. A decoded tile is 48 MiB at the most."""

MAX_DIRECTORIES = 256
MAX_TAGS = 1024
MAX_TEXT_BYTES = 4 * 2**20  # descriptions; OME-XML of a slide with many regions is long
DIRECTORY_BYTES, BEFORE_BYTES = 4 * 2**10, 8 * 2**10
"""What is read of a directory at once, behind its beginning and before: some twenty tags of 12 or 20 bytes, texts, and
the arrays of a level of up to a thousand tiles."""

ASPECT_LIMIT = 0.02
"""A level has the slide's shape; what differs by more (and by more than a pixel) is a macro or label image."""

_OF_THE_SLIDE = (270, 271, 305, 700, 282, 283)  # tags of its texts, and of its resolution
_OF_A_LEVEL = (258, 324, 325, 347)  # tags of its bits, of where its tiles are, and of their tables
_JPEG, _RGB, _YCBCR, _CHUNKY = 7, 2, 6, 1
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_OME_UNITS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3}


class BadTiffError(Exception):
    """The file says it is a tiled JPEG TIFF, and cannot be."""


@dataclass(frozen=True)
class TiffLevel:
    """A level's tiles in the file.

    Attributes:
        size_px: width and height of the level.
        tile_px: width and height of a file tile.
        columns: tiles a row.
        rgb: the JPEG's components are red, green, blue; otherwise they are YCbCr.
        tables: JPEG stream with the tables that the tiles share; may be empty.
        offsets: of each tile in the file, row by row.
        lengths: in bytes; 0 for a tile that is not there.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    columns: int
    rgb: bool
    tables: bytes
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TiffIndex:
    """Levels from the finest to the coarsest, and what the file says of its pixel size, as OpenSlide names it."""

    levels: tuple[TiffLevel, ...]
    properties: dict[str, str]


@dataclass(frozen=True)
class _Tag:
    kind: int
    count: int
    at: int

    @property
    def length(self) -> int:
        return _SIZES.get(self.kind, 0) * self.count


_Directory = dict[int, _Tag]


def read_index(source: ByteSource) -> TiffIndex | None:
    """Read the index; None where this is not a tiled JPEG TIFF, SVS or OME-TIFF that `TiffSlide` reads.

    Raises:
        BadTiffError: it is one, and broken or made to do harm.
        UadrayError: its bytes cannot be read.
    """
    file = _Header(source)
    if not file.start():
        return None
    try:
        first, following = file.directory(file.first)
        if not _covered(file, first):
            return None
        file.fetch([first[code] for code in (*_OF_THE_SLIDE, *_OF_A_LEVEL) if code in first], following)
        kind = _kind(file, first)
    except BadTiffError:
        if file.first >= source.size:
            raise
        return None  # not ours to judge: there are TIFFs, NDPI above all, that only OpenSlide understands
    if kind is None:
        return None
    if kind == "ome" and 330 in first:  # sub-resolutions
        subordinate = [file.directory(at)[0] for at in file.integers(first[330], MAX_DIRECTORIES)]
        chosen = [first, *(each for each in subordinate if _tiled(each))]
    elif kind == "aperio":
        chosen = [each for each in (first, *_chain(file, following)) if _tiled(each)]
    else:
        found = [first, *_chain(file, following)]
        chosen = [each for i, each in enumerate(found) if _tiled(each) and (i == 0 or file.integer(each, 254, 0) & 1)]
        chosen.sort(key=lambda each: -file.integer(each, 256))
    chosen = [each for each in chosen if _same_shape(_size(file, chosen[0]), _size(file, each))]
    if not all(_covered(file, each) for each in chosen):
        return None
    levels = _levels(file, chosen)
    if not all(set(file.integers(each[258], 16)) == {8} for each in chosen):
        return None
    if kind == "aperio" and any((level.lengths == 0).any() for level in levels):
        return None  # OpenSlide draws tiles that are missing from finer levels
    return TiffIndex(levels, _properties(file, first, kind))


class _Header:
    """The file's structure, read in blocks that are kept: directories and their values lie close together."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._blocks = list(source.known)
        self.order, self.big, self.first = "<", False, 0

    def start(self) -> bool:
        """Read the header; False where this is no TIFF that can be opened here."""
        head = self._blocks[0][1][:16]
        if len(head) < 16:
            return False
        if head[:2] not in (b"II", b"MM"):
            return False
        self.order = "<" if head[:2] == b"II" else ">"
        version, offset_bytes = struct.unpack(f"{self.order}HH", head[2:6])
        if version not in (42, 43) or (version == 43 and offset_bytes != 8):
            return False
        self.big = version == 43
        self.first = struct.unpack(f"{self.order}{'Q' if self.big else 'I'}", head[8:16] if self.big else head[4:8])[0]
        return self.first != 0 and not self._source.name.lower().endswith(".ndpi")  # beyond 4 GiB no valid TIFF

    def bytes_at(self, at: int, length: int) -> bytes:
        if at < 0 or at + length > self._source.size:
            raise BadTiffError(
                f"its header points to byte {at + length:,}, and it has {self._source.size:,}; was it copied whole?"
            )
        for start, blob in self._blocks:
            if start <= at and at + length <= start + len(blob):
                return blob[at - start : at - start + length]
        start, stop = self._around(at, length)
        blob = self._source.read([(start, stop)])[0]
        self._blocks.append((start, blob))
        return blob[at - start : at - start + length]

    def _around(self, at: int, length: int = 0) -> Span:
        """What to read at once for what begins at a byte: some write a directory's values before it, some behind it."""
        return max(0, at - BEFORE_BYTES), min(self._source.size, at + max(length, DIRECTORY_BYTES))

    def fetch(self, tags: Sequence[_Tag], following: int = 0, *, limit: int = 2**16) -> None:
        """Read values of tags (of up to `limit` bytes each) and the next directory in one round trip, to have them."""
        end = self._source.size
        spans = {(tag.at, tag.at + tag.length) for tag in tags if tag.at + tag.length <= end and tag.length <= limit}
        if 0 < following < end:
            spans.add(self._around(following))
        missing = [(a, b) for a, b in sorted(spans) if not any(_in(a, b, at, blob) for at, blob in self._blocks)]
        blobs = self._source.read(missing) if missing else []
        self._blocks += [(start, blob) for (start, _), blob in zip(missing, blobs, strict=True)]

    def directory(self, at: int) -> tuple[_Directory, int]:
        """The tags of a directory, and where the next one is (0: nowhere)."""
        head, entry, offset = ("Q", "HHQQ", "Q") if self.big else ("H", "HHII", "I")
        head_bytes, entry_bytes, offset_bytes = (struct.calcsize(f"<{each}") for each in (head, entry, offset))
        (count,) = struct.unpack(f"{self.order}{head}", self.bytes_at(at, head_bytes))
        if count > MAX_TAGS:
            raise BadTiffError(f"a directory claims {count:,} tags; expected {MAX_TAGS} at most")
        body = self.bytes_at(at + head_bytes, count * entry_bytes + offset_bytes)
        tags: _Directory = {}
        for i, (code, kind, n, value) in enumerate(
            struct.iter_unpack(f"{self.order}{entry}", body[: count * entry_bytes])
        ):
            inline = _SIZES.get(kind, 0) * n <= offset_bytes
            tags[code] = _Tag(kind, n, at + head_bytes + (i + 1) * entry_bytes - offset_bytes if inline else value)
        return tags, struct.unpack(f"{self.order}{offset}", body[-offset_bytes:])[0]

    def array(self, tag: _Tag) -> npt.NDArray[np.int64]:
        if tag.kind not in _INTEGERS:
            raise BadTiffError(f"a tag of integers has type {tag.kind}")
        return np.frombuffer(self.bytes_at(tag.at, tag.length), f"{self.order}{_INTEGERS[tag.kind]}").astype(np.int64)

    def integers(self, tag: _Tag, limit: int) -> list[int]:
        if tag.count > limit:
            raise BadTiffError(f"a tag claims {tag.count:,} values; expected {limit:,} at most")
        return [int(value) for value in self.array(tag)]

    def integer(self, tags: _Directory, code: int, default: int | None = None) -> int:
        values = self.integers(tags[code], 16) if code in tags else []
        if values:
            return values[0]
        if default is None:
            raise BadTiffError(f"a directory lacks tag {code}")
        return default

    def raw(self, tags: _Directory, code: int) -> bytes:
        """A value of bytes, cut off at `MAX_TEXT_BYTES`; empty where it is missing."""
        tag = tags.get(code)
        return self.bytes_at(tag.at, min(tag.length, MAX_TEXT_BYTES)) if tag else b""

    def text(self, tags: _Directory, code: int) -> str:
        return self.raw(tags, code).split(b"\0")[0].decode("utf-8", "replace")

    def ratio(self, tags: _Directory, code: int) -> float | None:
        tag = tags.get(code)
        if tag is None or tag.kind != 5 or tag.count < 1:
            return None
        above, below = struct.unpack(f"{self.order}II", self.bytes_at(tag.at, 8))
        return above / below if above and below else None


def _in(start: int, stop: int, at: int, blob: bytes) -> bool:
    return at <= start and stop <= at + len(blob)


def _chain(file: _Header, at: int) -> list[_Directory]:
    seen, found = {file.first}, []
    while at:
        if at in seen:
            raise BadTiffError("its directories run in a circle")
        if len(seen) >= MAX_DIRECTORIES:
            raise BadTiffError(f"it has more than {MAX_DIRECTORIES} directories")
        seen.add(at)
        tags, at = file.directory(at)
        file.fetch([tags[code] for code in _OF_A_LEVEL if code in tags and _tiled(tags)], at)
        found.append(tags)
    return found


def _kind(file: _Header, tags: _Directory) -> str | None:
    """`aperio`, `ome`, `generic`, or None for what only OpenSlide understands. By OpenSlide's own signs."""
    description = file.text(tags, 270)
    others = (
        65420 in tags,  # Hamamatsu
        65000 in tags,  # Argos
        b"iScan" in file.raw(tags, 700),  # Ventana
        file.text(tags, 305).startswith(("MedScan", "Philips")),  # Trestle, Philips
        file.text(tags, 271).startswith("Huron"),
        "leica-microsystems.com/scn" in description,
    )
    if any(others):
        return None
    if description.startswith("Aperio"):
        return "aperio"
    return "ome" if "<OME" in description[:4096] else "generic"


def _tiled(tags: _Directory) -> bool:
    return 322 in tags and 323 in tags


def _covered(file: _Header, tags: _Directory) -> bool:
    """Whether the tiles are JPEG of three interleaved components; that they have 8 bits is looked at later."""
    return (
        _tiled(tags)
        and 324 in tags
        and 325 in tags
        and file.integer(tags, 259, 1) == _JPEG
        and file.integer(tags, 262, 0) in (_RGB, _YCBCR)
        and file.integer(tags, 277, 1) == 3
        and file.integer(tags, 284, _CHUNKY) == _CHUNKY
        and 258 in tags
    )


def _size(file: _Header, tags: _Directory) -> tuple[int, int]:
    return file.integer(tags, 256), file.integer(tags, 257)


def _same_shape(whole: tuple[int, int], part: tuple[int, int]) -> bool:
    """Whether one is the other, made smaller.

    >>> [_same_shape((46000, 32914), part) for part in ((11500, 8228), (46, 33), (1280, 431))]
    [True, True, False]
    """
    expected = part[0] * whole[1] / max(1, whole[0])
    return abs(expected - part[1]) <= max(ASPECT_LIMIT * expected, 1 + whole[1] / max(1, whole[0]))


def _levels(file: _Header, directories: Sequence[_Directory]) -> tuple[TiffLevel, ...]:
    plans = [_plan(file, tags) for tags in directories]
    if sum(columns * rows for _, _, columns, rows in plans) > 2 * MAX_FILE_TILES:
        raise BadTiffError(f"its levels claim more than {2 * MAX_FILE_TILES:,} tiles together")
    file.fetch([tags[code] for tags in directories for code in _OF_A_LEVEL if code in tags], limit=2**62)
    levels = []
    for tags, (size, tile, columns, _) in zip(directories, plans, strict=True):
        levels.append(
            TiffLevel(
                size_px=size,
                tile_px=tile,
                columns=columns,
                rgb=file.integer(tags, 262) == _RGB,
                tables=file.raw(tags, 347),
                offsets=file.array(tags[324]),
                lengths=file.array(tags[325]),
            )
        )
        _check_spans(levels[-1], file._source.size)
    return tuple(levels)


def _plan(file: _Header, tags: _Directory) -> tuple[tuple[int, int], tuple[int, int], int, int]:
    """Size, tile, columns and rows of a level whose numbers agree with each other."""
    size, tile = _size(file, tags), (file.integer(tags, 322), file.integer(tags, 323))
    if min(size) < 1 or min(tile) < 1 or max(tile) > MAX_TILE_PX:
        raise BadTiffError(f"a level of {size[0]} x {size[1]} px in tiles of {tile[0]} x {tile[1]} px cannot be")
    columns, rows = -(-size[0] // tile[0]), -(-size[1] // tile[1])
    counts = {columns * rows, tags[324].count, tags[325].count}
    if len(counts) > 1:
        raise BadTiffError(
            f"a level of {columns} x {rows} tiles lists {tags[324].count:,} offsets and {tags[325].count:,} lengths"
        )
    if columns * rows > MAX_FILE_TILES:
        raise BadTiffError(f"a level claims {columns * rows:,} tiles; expected {MAX_FILE_TILES:,} at most")
    if 347 in tags and tags[347].length > 2**16:
        raise BadTiffError("its JPEG tables are longer than 64 KiB")
    if tags[258].count > 16:
        raise BadTiffError(f"a pixel claims {tags[258].count:,} components")
    return size, tile, columns, rows


def _check_spans(level: TiffLevel, file_bytes: int) -> None:
    longest = 2 * 3 * level.tile_px[0] * level.tile_px[1] + 2**16  # JPEG of noise at quality 100 is no longer
    there = level.lengths != 0
    stops = level.offsets[there] + level.lengths[there]
    if (level.offsets[there] < 0).any() or (level.lengths < 0).any() or (stops > file_bytes).any() or (stops < 0).any():
        raise BadTiffError(
            f"a level of {level.size_px[0]} x {level.size_px[1]} px has tiles beyond the end of the file "
            f"({file_bytes:,} bytes); was it copied whole?"
        )
    if level.lengths.max(initial=0) > longest:
        raise BadTiffError(f"a tile claims {level.lengths.max():,} bytes; expected {longest:,} at most")


def _properties(file: _Header, tags: _Directory, kind: str) -> dict[str, str]:
    """The pixel size as OpenSlide's properties give it (`openslide.mpp-x`, `-y`); empty where the file has none."""
    if kind == "aperio":
        pairs = [part.partition("=") for part in file.text(tags, 270).split("|")[1:]]
        values = {name.strip(): value.strip() for name, equals, value in pairs if equals}
        return {f"openslide.mpp-{axis}": values["MPP"] for axis in "xy"} if "MPP" in values else {}
    found = _ome_mpp(file.text(tags, 270)) if kind == "ome" else None
    if found is None:
        unit_um = {2: 25_400.0, 3: 10_000.0}.get(file.integer(tags, 296, 2))
        x, y = file.ratio(tags, 282), file.ratio(tags, 283)
        if unit_um is None or x is None or y is None:
            return {}
        found = (unit_um / x, unit_um / y)
    return {"openslide.mpp-x": repr(found[0]), "openslide.mpp-y": repr(found[1])}


def _ome_mpp(description: str) -> tuple[float, float] | None:
    """PhysicalSizeX and Y of the first image, in micrometres.

    >>> _ome_mpp('<OME><Image><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25" SizeX="8"/>')
    (0.25, 0.25)
    """
    pixels = re.search(r"<(?:\w+:)?Pixels\s[^>]*>", description)
    if pixels is None:
        return None
    values = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', pixels[0]))
    try:
        x, y = (
            float(values[f"PhysicalSize{axis}"])
            * _OME_UNITS[html.unescape(values.get(f"PhysicalSize{axis}Unit", "\u00b5m"))]
            for axis in "XY"
        )
    except (KeyError, ValueError):
        return None
    return x, y
