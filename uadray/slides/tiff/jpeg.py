"""JPEG tiles of TIFF -> RGB, by libjpeg-turbo (simplejpeg), with the same pixels as OpenSlide.

The tiles of a TIFF share JPEG tables, so each tile's JPEG header is written anew: the shared tables, an Adobe marker,
from which libjpeg learns the colour transform, and the tile's own frame and scan. The frame's size is checked first:
nothing is allocated for a picture of another size.

Whether the components are RGB or YCbCr is taken from the JPEG itself, and from the TIFF's tag only where the JPEG does
not say it. In many files the two disagree, and then the tag is the wrong one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import simplejpeg

from uadray.slides.slide import Rgb

MAX_SCANS = 500
"""Of a progressive JPEG at the most, which is libjpeg-turbo's own limit for untrusted input. Encoders write about
ten."""

MAX_SCANNED_PX = 2**33
"""Pixels of a progressive JPEG times its scans, at the most: 500 scans of 4096 x 4096 px take minutes."""

MAX_STEPS = 1000
"""Segments, and fill bytes between them, before a tile's pixels, at the most; a colour profile takes a few hundred."""

_SOI, _SOS, _DQT, _DHT, _DRI, _APP0, _APP14 = 0xD8, 0xDA, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_PROGRESSIVE = 0xC2

Segments = Sequence[tuple[int, bytes]]
"""Of each segment its marker and its bytes, which begin with the marker."""


@dataclass(frozen=True)
class _Head:
    """The header of a tile's JPEG, up to its coded pixels: as it is in the file, and as it is decoded."""

    original: bytes
    rewritten: bytes
    progressive: bool


class TileDecoder:
    """Decodes the tiles of one level. Safe to use from several threads.

    Args:
        tile_px: width and height that each tile must have.
        rgb: tiles that do not say it themselves are red, green, blue, by the TIFF's tag; otherwise YCbCr.
        tables: JPEG stream of shared tables (tag JPEGTables); may be empty.

    Raises:
        ValueError: the tables are no JPEG stream.
    """

    def __init__(self, tile_px: tuple[int, int], *, rgb: bool, tables: bytes) -> None:
        self._tile_px, self._rgb = tile_px, rgb
        self._max_scans = min(MAX_SCANS, MAX_SCANNED_PX // (tile_px[0] * tile_px[1]))
        self._shared = _segments(tables)[0] if tables else []
        self._tables = b"".join(raw for marker, raw in self._shared if marker in (_DQT, _DHT))
        self._head: _Head | None = None  # of the previous tile: encoders write the same header for all

    def decode(self, data: bytes, out: Rgb | None = None) -> Rgb:
        """RGB [tile height, tile width, 3]; written to `out` where that is given, of this shape and contiguous.

        Raises:
            ValueError: not a JPEG of the right size, or damaged.
        """
        pixels: Rgb = simplejpeg.decode_jpeg(self.whole(data), colorspace="RGB", buffer=out)
        return pixels

    def whole(self, data: bytes) -> bytes:
        """The tile as a JPEG file of its own, with its tables and a marker for its colours.

        Raises:
            ValueError: not a JPEG of the right size.
        """
        head = self._head
        if head is None or not data.startswith(head.original):
            head = self._head = self._read_head(data)
        if head.progressive and data.count(b"\xff\xda") > self._max_scans:
            raise ValueError(f"JPEG of more than {self._max_scans} scans")
        return head.rewritten + data[len(head.original) :]

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
        frame_and_scan = b"".join(raw for marker, raw in segments if marker in kept)
        return _Head(data[:end], b"\xff\xd8" + adobe + self._tables + frame_and_scan, frames[0][1] == _PROGRESSIVE)


def says_rgb(data: bytes, tables: bytes) -> bool | None:
    """Whether a tile's JPEG calls its components RGB (True) or YCbCr (False); None where it does not say.

    Args:
        data: the tile, or its beginning.
        tables: JPEG stream of shared tables; may be empty.

    Raises:
        ValueError: no JPEG stream, or one that breaks off within its header.
    """
    return _says_rgb(_segments(data)[0], _segments(tables)[0] if tables else [])


def _says_rgb(of_tile: Segments, shared: Segments) -> bool | None:
    """Whether components are RGB, by the rules of libjpeg and one more; None where nothing says it.

    JFIF is YCbCr, and an Adobe marker says which it is. Where components have different resolutions they are YCbCr, as
    no encoder reduces the resolution of red or blue.
    """
    frame = next((raw for marker, raw in of_tile if marker in _FRAMES), b"")
    components = [frame[10 + 3 * i : 13 + 3 * i] for i in range(3)]
    is_whole = all(len(component) == 3 for component in components)
    subsampled = is_whole and any(component[1] != components[0][1] for component in components[1:])
    for segments in (of_tile, shared):
        if any(marker == _APP0 and raw[4:9] == b"JFIF\0" for marker, raw in segments):
            return False
        adobe = [raw for marker, raw in segments if marker == _APP14 and raw[4:9] == b"Adobe" and len(raw) >= 16]
        if adobe:
            return adobe[-1][15] == 0
        if segments is of_tile and subsampled:
            return False
        if segments is of_tile and b"".join(component[:1] for component in components) == b"RGB":
            return True
    return None


def _segments(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Marker segments after the start of image, up to and with the first scan's header or the end; and where they end.

    Raises:
        ValueError: this is no JPEG stream, or it breaks off.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG stream")
    segments: list[tuple[int, bytes]] = []
    at = 2
    for _ in range(MAX_STEPS):
        if at + 4 > len(data):
            return segments, at
        if data[at] != 0xFF:
            raise ValueError("a JPEG header in disorder")
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker == 0xD9 or 0xD0 <= marker <= _SOI or marker in (0x00, 0x01):
            return segments, at
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end > len(data) or end < at + 4:
            raise ValueError("a JPEG header that breaks off")
        segments.append((marker, data[at:end]))
        at = end
        if marker == _SOS:
            return segments, at
    raise ValueError(f"a JPEG header of more than {MAX_STEPS} segments")
