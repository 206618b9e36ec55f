"""Lossless tiles of TIFF (uncompressed, LZW, deflate) -> RGB: each wrapped as a TIFF of one strip, by Pillow's libtiff.

Pillow, as OpenCV returns what it could decode of a damaged tile without a word.
"""

import io
import struct
import warnings

import numpy as np
from PIL import Image

from uadray.slides.reader import Rgb

COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate"}
"""By the number in tag 259."""


class LosslessDecoder:
    """Decodes the tiles of one level, 8-bit RGB. Safe to use from several threads.

    Args:
        tile_px: width and height of each tile.
        compression: of `COMPRESSIONS`.
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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libtiff's about metadata, which are written here
                with Image.open(io.BytesIO(self._wrapped(data)), formats=("TIFF",)) as image:
                    pixels = np.array(image, np.uint8)
        except (OSError, SyntaxError, struct.error, MemoryError) as error:
            raise ValueError(f"{COMPRESSIONS[self._compression]} data that cannot be decoded: {error}") from error
        if out is None:
            return pixels
        out[:] = pixels
        return out

    def _wrapped(self, data: bytes) -> bytes:
        width, height = self._tile_px
        start = 8 + 2 + 11 * 12 + 4
        bits, strip = start, start + 6
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, self._compression), (262, 3, 1, 2),
            (273, 4, 1, strip), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
            (317, 3, 1, self._predictor),
        ]  # fmt: skip
        directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
        return head + directory + struct.pack("<IHHH", 0, 8, 8, 8) + data
