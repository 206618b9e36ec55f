"""JPEG tiles of TIFF -> RGB, by libjpeg-turbo (simplejpeg), with the pixels that OpenSlide has.

A TIFF says in its own header how a tile's colours are meant and shares tables among tiles, so each tile's JPEG header
is written anew: the shared tables, an Adobe marker for the colour transform (libjpeg's way to be told), and the tile's
own frame and scan. The frame's size is checked first: nothing is allocated for a picture of another size.
"""

from dataclasses import dataclass

import simplejpeg

from uadray.slides.reader import Rgb

MAX_SCANS = 500
"""Of a progressive JPEG: libjpeg-turbo's own limit for untrusted input. Encoders write about ten."""

_SOI, _SOS, _DQT, _DHT, _DRI = 0xD8, 0xDA, 0xDB, 0xC4, 0xDD
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_PROGRESSIVE = 0xC2


@dataclass(frozen=True)
class _Head:
    own: bytes  # from the tile, to the beginning of its coded pixels
    rewritten: bytes
    progressive: bool


class TileDecoder:
    """Decodes the tiles of one level. Safe to use from several threads.

    Args:
        tile_px: width and height that each tile must have.
        rgb: the components are red, green, blue; otherwise YCbCr.
        tables: JPEG stream of shared tables (tag JPEGTables); may be empty.

    Raises:
        ValueError: the tables are no JPEG stream.
    """

    def __init__(self, tile_px: tuple[int, int], *, rgb: bool, tables: bytes) -> None:
        self._tile_px = tile_px
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x00" if rgb else b"\x01")
        shared = b"".join(raw for marker, raw in _segments(tables)[0] if marker in (_DQT, _DHT)) if tables else b""
        self._start = b"\xff\xd8" + adobe + shared
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
        if head.progressive and data.count(b"\xff\xda") > MAX_SCANS:
            raise ValueError(f"JPEG of more than {MAX_SCANS} scans")
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
        kept = (*_FRAMES, _DQT, _DHT, _DRI, _SOS)
        own = b"".join(raw for marker, raw in segments if marker in kept)
        return _Head(data[:end], self._start + own, frames[0][1] == _PROGRESSIVE)


def _segments(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Marker segments after the start of image, up to the first scan's header or the end; and where that ends.

    Raises:
        ValueError: this is no JPEG stream, or it breaks off.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG stream")
    found: list[tuple[int, bytes]] = []
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("a JPEG header in disorder")
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker == 0xD9 or 0xD0 <= marker <= _SOI or marker in (0x00, 0x01):
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end > len(data) or end < at + 4:
            raise ValueError("a JPEG header that breaks off")
        found.append((marker, data[at:end]))
        at = end
        if marker == _SOS:
            break
    return found, at
