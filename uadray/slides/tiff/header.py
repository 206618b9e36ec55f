"""Bytes of a TIFF -> its directories and the values of their tags, read in few round trips.

Nothing that a header claims is allocated before it is checked.

Sources: TIFF 6.0; BigTIFF.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.slides.tiff.byte_source import ByteSource, Span

MAX_DIRECTORIES = 256
MAX_TAGS = 1024
MAX_TEXT_BYTES = 4 * 2**20  # descriptions; OME-XML of a slide with many regions is long
DIRECTORY_BYTES, BEFORE_BYTES = 4 * 2**10, 8 * 2**10
"""Bytes that are read with a directory, from its beginning on and before it: some twenty tags of 12 or 20 bytes, texts,
and the arrays of a level of up to a thousand tiles."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


class BadTiffError(Exception):
    """The file is a TIFF, and what it says of itself cannot be right."""


class TiffLimitError(Exception):
    """The file may be right, but something in it is larger than what is read here."""


@dataclass(frozen=True)
class Tag:
    """An entry of a directory: its type, how many values, and where they are in the file."""

    kind: int
    count: int
    at: int

    @property
    def length(self) -> int:
        """Bytes of the values."""
        return _SIZES.get(self.kind, 0) * self.count


Directory = dict[int, Tag]


class TiffHeader:
    """The structure of a file. What has been read is kept, because directories and their values lie close together."""

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

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._source.size

    def check_inside(self, at: int, length: int) -> None:
        """Refuse what lies beyond the end of the file."""
        if at < 0 or at + length > self.size:
            raise BadTiffError(
                f"its header points to byte {at + length:,}, and it has {self.size:,}; was it copied whole?"
            )

    def bytes_at(self, at: int, length: int) -> bytes:
        """Bytes of the file; what lies around them is read and kept with them."""
        self.check_inside(at, length)
        for start, blob in self._blocks:
            if start <= at and at + length <= start + len(blob):
                return blob[at - start : at - start + length]
        start, stop = self._around(at, length)
        blob = self._source.read([(start, stop)])[0]
        self._blocks.append((start, blob))
        return blob[at - start : at - start + length]

    def _around(self, at: int, length: int = 0) -> Span:
        """The span to read for what begins at a byte: values may stand before their directory, or behind it."""
        return max(0, at - BEFORE_BYTES), min(self._source.size, at + max(length, DIRECTORY_BYTES))

    def fetch(self, tags: Sequence[Tag], following: int = 0, *, limit: int = 2**16) -> None:
        """Read values of tags (of up to `limit` bytes each) and the next directory in one round trip, and keep them."""
        end = self._source.size
        spans = {(tag.at, tag.at + tag.length) for tag in tags if tag.at + tag.length <= end and tag.length <= limit}
        if 0 < following < end:
            spans.add(self._around(following))
        missing = [(a, b) for a, b in sorted(spans) if not any(_in(a, b, at, blob) for at, blob in self._blocks)]
        blobs = self._source.read(missing) if missing else []
        self._blocks += [(start, blob) for (start, _), blob in zip(missing, blobs, strict=True)]

    def directory(self, at: int) -> tuple[Directory, int]:
        """The tags of a directory, and where the next directory begins (0: there is none)."""
        head, entry, offset = ("Q", "HHQQ", "Q") if self.big else ("H", "HHII", "I")
        head_bytes, entry_bytes, offset_bytes = (struct.calcsize(f"<{each}") for each in (head, entry, offset))
        (count,) = struct.unpack(f"{self.order}{head}", self.bytes_at(at, head_bytes))
        self.check_inside(at, head_bytes + count * entry_bytes + offset_bytes)
        if count > MAX_TAGS:
            raise TiffLimitError(f"a directory has {count:,} tags; {MAX_TAGS} are read at most")
        body = self.bytes_at(at + head_bytes, count * entry_bytes + offset_bytes)
        tags: Directory = {}
        for i, (code, kind, n, value) in enumerate(
            struct.iter_unpack(f"{self.order}{entry}", body[: count * entry_bytes])
        ):
            inline = _SIZES.get(kind, 0) * n <= offset_bytes
            tags[code] = Tag(kind, n, at + head_bytes + (i + 1) * entry_bytes - offset_bytes if inline else value)
        return tags, struct.unpack(f"{self.order}{offset}", body[-offset_bytes:])[0]

    def array(self, tag: Tag) -> npt.NDArray[np.int64]:
        """[count] All values of a tag of integers. The caller has checked their number."""
        if tag.kind not in _INTEGERS:
            raise BadTiffError(f"a tag of integers has type {tag.kind}")
        return np.frombuffer(self.bytes_at(tag.at, tag.length), f"{self.order}{_INTEGERS[tag.kind]}").astype(np.int64)

    def integers(self, tag: Tag, limit: int) -> list[int]:
        """All values of a tag of integers, refused where there are more than `limit`."""
        if tag.count > limit:
            self.check_inside(tag.at, tag.length)
            raise TiffLimitError(f"a tag has {tag.count:,} values; {limit:,} are read at most")
        return [int(value) for value in self.array(tag)]

    def integer(self, tags: Directory, code: int, default: int | None = None) -> int:
        """The first value of a tag of integers, or the default."""
        values = self.integers(tags[code], 16) if code in tags else []
        if values:
            return values[0]
        if default is None:
            raise BadTiffError(f"a directory lacks tag {code}")
        return default

    def raw(self, tags: Directory, code: int) -> bytes:
        """The bytes of a tag, cut off at `MAX_TEXT_BYTES`; empty where it is missing."""
        tag = tags.get(code)
        return self.bytes_at(tag.at, min(tag.length, MAX_TEXT_BYTES)) if tag else b""

    def text(self, tags: Directory, code: int) -> str:
        """The text of a tag; empty where it is missing. It is read as Latin-1 where it is no UTF-8."""
        raw = self.raw(tags, code).partition(b"\0")[0]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def ratio(self, tags: Directory, code: int) -> float | None:
        """A ratio above zero; None where there is none."""
        tag = tags.get(code)
        if tag is None or tag.kind != 5 or tag.count < 1:
            return None
        above, below = struct.unpack(f"{self.order}II", self.bytes_at(tag.at, 8))
        return above / below if above and below else None


def _in(start: int, stop: int, at: int, blob: bytes) -> bool:
    """Whether the bytes from `start` to `stop` lie in a blob that begins at `at`."""
    return at <= start and stop <= at + len(blob)
