"""An .npz of tiles in a request -> pixels, read by hand: every size is known and within limits before it is allocated.

`numpy.load` would make arrays of whatever size and kind a header claims. Here the archive may hold `tiles` (uint8
[N, h, w, 3], C order) and `ids` (text [N]), stored or deflated, and nothing else. Tiles are read one at a time and cut
to their centre, so that no more than one whole image is in memory.
"""

import io
import re
import struct
import zipfile
import zlib
from typing import IO, final

import numpy as np

from uadray.tiles.images import Pixels, centre_tile

MAX_ID_LENGTH = 1024

MAX_DIRECTORY_BYTES = 1024
"""Of the archive's directory: two names take about 110. Each entry there takes hundreds of bytes of memory."""

MAX_HEADER_BYTES = 1000

_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]\w\d{0,9})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>\d{1,9}(?:, \d{1,9}){0,7},?)?\), \}\s*"
)

_END, _END_BYTES, _LOCATOR_64, _LOCATOR_64_BYTES = b"PK\x05\x06", 22, b"PK\x06\x07", 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error, RuntimeError, KeyError)
"""What zipfile and numpy raise on bytes that are no archive, or none that they read."""


class NpzError(Exception):
    """A body is no .npz of tiles; the message says why."""


class NpzTooLargeError(NpzError):
    """It claims more than may be read."""


@final
class NpzTiles:
    """The tiles of an archive, to be read once and in order.

    Attributes:
        ids: of the tiles.
        pixels: of all images together.
    """

    def __init__(self, body: bytes, *, tile_px: int, max_tiles: int, max_image_px: int, max_pixels: int) -> None:
        """Read the headers and the ids.

        Raises:
            NpzTooLargeError: more tiles or pixels than the limits allow.
            NpzError: anything else than such an archive.
        """
        _check_end(body)
        self._tile_px = tile_px
        try:
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                names = _checked_names(archive)
                self._file = archive.open("tiles.npy")  # stays open when the archive is closed
                n, height, width = _tiles_shape(self._file)
                if n > max_tiles:
                    raise NpzTooLargeError(f"{n} tiles; at most {max_tiles} in a request, send several")
                if max(height, width) > max_image_px:
                    raise NpzTooLargeError(f"{width} x {height} px, at most {max_image_px} px a side are read")
                if n * height * width > max_pixels:
                    raise NpzTooLargeError(f"tiles of {n * height * width} pixels together; at most {max_pixels}")
                if min(height, width) < tile_px:
                    raise NpzError(f"tiles of {width} x {height} px, the bundle needs {tile_px} px")
                self.ids = _ids(archive, n) if "ids.npy" in names else [str(i) for i in range(n)]
        except _DAMAGED as error:
            raise NpzError(f"not an .npz that can be read: {type(error).__name__}") from error
        self.pixels, self._shape, self._left = n * height * width, (height, width, 3), n

    def read(self, most: int) -> Pixels:
        """The next tiles, at most `most`: RGB [n, tile_px, tile_px, 3].

        Raises:
            NpzError: the array breaks off, is longer than its shape says, or its checksum is wrong. What was read
                before is then worth nothing.
        """
        n = min(most, self._left)
        tiles = np.empty((n, self._tile_px, self._tile_px, 3), np.uint8)
        try:
            for i in range(n):
                image = np.frombuffer(_exactly(self._file, int(np.prod(self._shape))), np.uint8)
                tiles[i] = centre_tile(image.reshape(self._shape), self._tile_px)
            self._left -= n
            if not self._left and self._file.read(1):
                raise NpzError("tiles: longer than its shape says")
        except _DAMAGED as error:
            raise NpzError(f"tiles: damaged ({type(error).__name__})") from error
        return tiles


def _check_end(body: bytes) -> None:
    """Refuse an archive whose directory is large, before zipfile reads it: it would hold every entry in memory."""
    end = body[-_END_BYTES:]
    if len(end) < _END_BYTES or end[:4] != _END or end[-2:] != b"\0\0":
        raise NpzError("not an .npz: its end is missing")
    if body[-_END_BYTES - _LOCATOR_64_BYTES :][:4] == _LOCATOR_64:
        raise NpzError("an .npz in the zip64 format; no request is so large")
    (directory_bytes,) = struct.unpack("<I", end[12:16])
    if directory_bytes > MAX_DIRECTORY_BYTES:
        raise NpzError("an .npz with more arrays than `tiles` and `ids`")


def _checked_names(archive: zipfile.ZipFile) -> set[str]:
    infos = archive.infolist()
    names = {info.filename for info in infos}
    if len(names) != len(infos) or not {"tiles.npy"} <= names <= {"tiles.npy", "ids.npy"}:
        raise NpzError("an .npz has the array `tiles`, may have `ids`, and no other")
    if any(
        info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1 for info in infos
    ):
        raise NpzError("an .npz is stored or deflated, and not encrypted")
    return names


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, str]:
    """Shape, whether in Fortran's order, and dtype of an .npy; nothing of the array is read."""
    start = _exactly(file, 8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\1\0", b"\2\0"):
        raise NpzError("an array is no .npy of version 1.0 or 2.0")
    length_format = "<H" if start[6] == 1 else "<I"
    (length,) = struct.unpack(length_format, _exactly(file, struct.calcsize(length_format)))
    match = _HEADER.fullmatch(_exactly(file, length)) if length <= MAX_HEADER_BYTES else None
    if match is None:
        raise NpzError("an array has a header that numpy.save does not write, or is not of one plain type")
    shape = tuple(int(side) for side in (match["shape"] or b"").replace(b",", b" ").split())
    return shape, match["fortran"] == b"True", match["descr"].decode()


def _tiles_shape(file: IO[bytes]) -> tuple[int, int, int]:
    shape, fortran, descr = _header(file)
    if descr != "|u1":
        raise NpzError(f"tiles: of type {descr}; expected uint8 (|u1)")
    if len(shape) != 4 or shape[3] != 3 or not all(shape) or fortran:
        raise NpzError(f"tiles: shape {shape}{', Fortran order' * fortran}; expected [N, h, w, 3] in C order")
    return shape[0], shape[1], shape[2]


def _ids(archive: zipfile.ZipFile, n: int) -> list[str]:
    with archive.open("ids.npy") as file:
        shape, _, descr = _header(file)
        if shape != (n,):
            raise NpzError(f"ids: shape {shape}; expected ({n},)")
        if not re.fullmatch(r"<U\d{1,4}", descr) or int(descr[2:]) > MAX_ID_LENGTH:
            raise NpzError(f"ids: of type {descr}; expected text of at most {MAX_ID_LENGTH} characters")
        itemsize = 4 * int(descr[2:])
        ids = np.frombuffer(_exactly(file, n * itemsize), descr) if itemsize else np.full(n, "")
        if file.read(1):
            raise NpzError("ids: longer than its shape says")
    return [_sayable(str(each)) for each in ids]


def _sayable(text: str) -> str:
    """The text, if JSON can carry it: a surrogate that stands alone cannot be written as UTF-8."""
    text.encode()
    return text


def _exactly(file: IO[bytes], n_bytes: int) -> bytes:
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise EOFError
    return data
