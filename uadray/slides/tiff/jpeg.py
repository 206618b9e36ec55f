"""JPEG tiles of TIFF -> RGB, by libjpeg-turbo (simplejpeg), with the pixels that OpenSlide has.

A TIFF shares tables among tiles, so each tile's JPEG header is written anew: the shared tables, an Adobe marker for the
colour transform (libjpeg's way to be told), and the tile's own frame and scan. The frame's size is checked first:
nothing is allocated for a picture of another size.

What the components are, RGB or YCbCr, is said by the JPEG itself where it says so, and by the TIFF's tag only where it
does not. Files of which the two disagree are common, and then it is the tag that was not kept up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import simplejpeg

from uadray.slides.slide import Rgb

MAX_SCANS = 500
"""Of a progressive JPEG: libjpeg-turbo's own limit for untrusted input. Encoders write about ten."""

MAX_SCANNED_PX = 2**33
"""Pixels of a progressive JPEG times its scans: 500 scans of 4096 x 4096 px take minutes."""

MAX_STEPS = 1000
"""Segments, and bytes that fill between them, before a tile's pixels; a colour profile takes a few hundred at most."""

_SOI, _SOS, _DQT, _DHT, _DRI, _APP0, _APP14 = 0xD8, 0xDA, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_PROGRESSIVE = 0xC2

Segments = Sequence[tuple[int, bytes]]
"""Marker and bytes, from the marker on."""


@dataclass(frozen=True)
class _Head:
    own: bytes  # from the tile, to the beginning of its coded pixels
    rewritten: bytes
    progressive: bool


class TileDecoder:
    """Decodes the tiles of one level. Safe to use from several threads.

    Args:
        tile_px: width and height that each tile must have.
        rgb: what the TIFF says of tiles that do not say it: red, green, blue; otherwise YCbCr.
        tables: JPEG stream of shared tables (tag JPEGTables); may be empty.

    Raises:
        ValueError: the tables are no JPEG stream.
    """

    def __init__(self, tile_px: tuple[int, int], *, rgb: bool, tables: bytes) -> None:
        self._tile_px, self._rgb = tile_px, rgb
        self._max_scans = min(MAX_SCANS, MAX_SCANNED_PX // (tile_px[0] * tile_px[1]))
        self._shared = _segments(tables)[0] if tables else []
        self._tables = b"".join(raw for marker, raw in self._shared if marker in (_DQT, _DHT))
        self._head: _Head | None = None  # of the tile before: encoders write the same for all

    def decode(self, data: bytes, out: Rgb | None = None) -> Rgb:
        """RGB [tile height, tile width, 3]; written to `out` where that is given, of this shape and contiguous.

        Raises:
            ValueError: not a JPEG of the right size, or damaged.
        """
        pixels: Rgb = simplejpeg.decode_jpeg(self.whole(data), colorspace="RGB", buffer=out)
        return pixels

    def whole(self, data: bytes) -> bytes:
        """The tile as a JPEG that stands by itself, with its tables and how its colours are meant.

        Raises:
            ValueError: not a JPEG of the right size.
        """
        head = self._head
        if head is None or not data.startswith(head.own):
            head = self._head = self._read_head(data)
        if head.progressive and data.count(b"\xff\xda") > self._max_scans:
            raise ValueError(f"JPEG of more than {self._max_scans} scans")
        return head.rewritten + data[len(head.own) :]

    def _read_head(self, data: bytes) -> _Head:
        segments, end = _segments(data)
        frames = [raw for marker, raw in segments if marker in _FRAMES]
        if len(frames) != 1 or segments[-1][0] != _SOS or len(frames[0]) < 10:
            raise ValueError("not a JPEG of the kind that slides have")
        height, width, components = int.from_bytes(frames[0][5:7]), int.from_bytes(frames[0][7:9]), frames[0][9]
        if (width, height) != self._tile_px or components != 3 or frames[0][4] != 8:
            raise ValueError(
                f"JPEG of {width} x {height} px and {components} components, where the file says "
                f"{self._tile_px[0]} x {self._tile_px[1]} px in colour"
            )
        says = _says_rgb(segments, self._shared)
        rgb = self._rgb if says is None else says
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x00" if rgb else b"\x01")
        kept = (*_FRAMES, _DQT, _DHT, _DRI, _SOS)
        own = b"".join(raw for marker, raw in segments if marker in kept)
        return _Head(data[:end], b"\xff\xd8" + adobe + self._tables + own, frames[0][1] == _PROGRESSIVE)


def says_rgb(data: bytes, tables: bytes) -> bool | None:
    """Whether a tile's JPEG calls its components RGB (True) or YCbCr (False); None where it does not say.

    Args:
        data: the tile, or its beginning.
        tables: JPEG stream of shared tables; may be empty.

    Raises:
        ValueError: no JPEG stream, or one that breaks off within its header.
    """
    return _says_rgb(_segments(data)[0], _segments(tables)[0] if tables else [])


def _says_rgb(own: Segments, shared: Segments) -> bool | None:
    """By the rules of libjpeg: JFIF is YCbCr, Adobe's marker says which; then, as nobody thins out red, subsampling."""
    frame = next((raw for marker, raw in own if marker in _FRAMES), b"")
    parts = [frame[10 + 3 * i : 13 + 3 * i] for i in range(3)]
    subsampled = all(len(part) == 3 for part in parts) and any(part[1] != parts[0][1] for part in parts[1:])
    for segments in (own, shared):
        if any(marker == _APP0 and raw[4:9] == b"JFIF\0" for marker, raw in segments):
            return False
        adobe = [raw for marker, raw in segments if marker == _APP14 and raw[4:9] == b"Adobe" and len(raw) >= 16]
        if adobe:
            return adobe[-1][15] == 0
        if segments is own and subsampled:
            return False
        if segments is own and b"".join(part[:1] for part in parts) == b"RGB":
            return True
    return None


def _segments(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Marker segments after the start of image, up to the first scan's header or the end; and where that ends.

    Raises:
        ValueError: this is no JPEG stream, or it breaks off.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG stream")
    found: list[tuple[int, bytes]] = []
    at = 2
    for _ in range(MAX_STEPS):
        if at + 4 > len(data):
            return found, at
        if data[at] != 0xFF:
            raise ValueError("a JPEG header in disorder")
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker == 0xD9 or 0xD0 <= marker <= _SOI or marker in (0x00, 0x01):
            return found, at
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end > len(data) or end < at + 4:
            raise ValueError("a JPEG header that breaks off")
        found.append((marker, data[at:end]))
        at = end
        if marker == _SOS:
            return found, at
    raise ValueError(f"a JPEG header of more than {MAX_STEPS} segments")
