"""Lossless tiles of TIFF -> RGB: uncompressed; deflate, by zlib; LZW, by Pillow's libtiff.

Deflate is decoded by zlib because it verifies the check sum: libtiff does not, and OpenCV returns the part of a damaged
tile that it could decode, without an error.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from uadray.slides.slide import Rgb

COMPRESSIONS = {1: "uncompressed", 5: "LZW", 8: "deflate", 32946: "deflate"}
"""Name of a compression by the value of tag 259."""

_LZW = 5


class LosslessDecoder:
    """Decodes the tiles of one level, 8-bit RGB. Safe to use from several threads.

    Args:
        tile_px: width and height of each tile.
        compression: one of `COMPRESSIONS`.
        predictor: 1, none, or 2, differences along a row (tag 317).
    """

    def __init__(self, tile_px: tuple[int, int], *, compression: int, predictor: int) -> None:
        self._tile_px, self._compression, self._predictor = tile_px, compression, predictor

    def decode(self, data: bytes, out: Rgb | None = None) -> Rgb:
        """RGB [tile height, tile width, 3]; written to `out` where that is given, of this shape.

        Raises:
            ValueError: damaged.
        """
        try:
            pixels = self._by_pillow(data) if self._compression == _LZW else self._by_zlib(data)
        except (OSError, SyntaxError, zlib.error) as error:
            raise ValueError(f"{COMPRESSIONS[self._compression]} data that cannot be decoded: {error}") from error
        if out is None:
            return pixels
        out[:] = pixels
        return out

    def _by_zlib(self, data: bytes) -> Rgb:
        width, height = self._tile_px
        expected = 3 * width * height
        raw = data if self._compression == 1 else zlib.decompressobj().decompress(data, expected + 1)
        if len(raw) != expected:
            raise ValueError(f"{COMPRESSIONS[self._compression]} data that cannot be decoded: not of a tile's length")
        pixels = np.frombuffer(raw, np.uint8).reshape(height, width, 3)
        differences = self._predictor == 2 and self._compression != 1
        return np.cumsum(pixels, axis=1, dtype=np.uint8) if differences else pixels.copy()

    def _by_pillow(self, data: bytes) -> Rgb:
        """Decode by writing a TIFF of one strip around the data."""
        width, height = self._tile_px
        bits = 8 + 2 + 11 * 12 + 4
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, _LZW), (262, 3, 1, 2),
            (273, 4, 1, bits + 6), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
            (317, 3, 1, self._predictor),
        ]  # fmt: skip
        head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
        directory = b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
        whole = io.BytesIO(head + directory + struct.pack("<3H", 8, 8, 8) + data)
        with Image.open(whole, formats=("TIFF",)) as image:
            return np.array(image, np.uint8)
