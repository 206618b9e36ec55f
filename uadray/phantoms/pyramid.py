"""An RGB image -> a slide: a pyramidal TIFF of JPEG tiles, as scanners write, which OpenSlide opens as `generic-tiff`.

Sources: TIFF 6.0; for JPEG its Technical Note 2.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg

from uadray.phantoms.brushes import Bytes
from uadray.slides.tiff import tags as codes

JPEG_QUALITY = 87  # Aperio and Hamamatsu scanners write about 70 to 90
DOWNSAMPLES = (2, 4)  # a level within a factor of 2 of any resolution that demo and tests ask for

_BYTES, _ASCII, _SHORT, _LONG, _RATIONAL = 7, 2, 3, 4, 5  # TIFF 6.0, section 2: types of fields
_FORMATS = {_SHORT: "H", _LONG: "I", _RATIONAL: "I"}
_Tags = dict[int, tuple[int, bytes | Sequence[int]]]


def write_pyramid(
    path: Path,
    image: Bytes,
    *,
    mpp: float | None,
    tile_px: int = 256,
    downsamples: Sequence[int] = DOWNSAMPLES,
    jpeg_quality: int = JPEG_QUALITY,
    shared_tables: bool = True,
) -> Path:
    """Write an image as a pyramidal TIFF of JPEG tiles (4:2:0). The file appears when it is complete.

    Args:
        path: the file; one that is there is replaced.
        image: RGB uint8 [H, W, 3].
        mpp: micrometres per pixel of the image, written exactly; None leaves the resolution out.
        tile_px: side of a tile, a multiple of 16.
        downsamples: by how much each of the other levels is smaller than the image.
        jpeg_quality: 1 to 100.
        shared_tables: write JPEG tables once a level (tag JPEGTables), as scanners do, or into each tile.

    Returns:
        The path.

    Raises:
        ValueError: the image is not RGB uint8, or the tile's side not a multiple of 16.
        struct.error: the file would pass 4 GiB.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{path.name}: expected RGB uint8 [H, W, 3], got {image.dtype} {image.shape}")
    if tile_px <= 0 or tile_px % 16:
        raise ValueError(f"{path.name}: a tile's side must be a multiple of 16, got {tile_px}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(struct.pack("<2sHI", b"II", 42, 0))  # the offset of the first level's directory follows
            link = 4
            for factor in (1, *downsamples):
                level = image if factor == 1 else _reduced(image, factor)
                tiles = [_jpeg(tile, jpeg_quality) for tile in _tiles(level, tile_px)]
                tables = None
                if shared_tables:
                    tables, tiles = _split_tables(tiles[0])[0], [_split_tables(tile)[1] for tile in tiles]
                tags = _tags(level, factor, None if mpp is None else mpp * factor, tile_px, tables)
                link = _append_level(file, link, tags, tiles)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _tags(level: Bytes, factor: int, mpp: float | None, tile_px: int, tables: bytes | None) -> _Tags:
    """The tags of a level, except where its tiles lie."""
    tags: _Tags = {
        codes.NEW_SUBFILE_TYPE: (_LONG, [0 if factor == 1 else 1]),  # 1: a smaller copy; OpenSlide finds levels by it
        codes.IMAGE_WIDTH: (_LONG, [level.shape[1]]),
        codes.IMAGE_LENGTH: (_LONG, [level.shape[0]]),
        codes.BITS_PER_SAMPLE: (_SHORT, [8, 8, 8]),
        codes.COMPRESSION: (_SHORT, [codes.JPEG]),
        codes.PHOTOMETRIC: (_SHORT, [codes.YCBCR]),
        codes.SAMPLES_PER_PIXEL: (_SHORT, [3]),
        codes.PLANAR_CONFIGURATION: (_SHORT, [codes.INTERLEAVED]),
        codes.SOFTWARE: (_ASCII, b"uadray\0"),
        codes.TILE_WIDTH: (_LONG, [tile_px]),
        codes.TILE_LENGTH: (_LONG, [tile_px]),
        codes.YCBCR_SUBSAMPLING: (_SHORT, [2, 2]),  # 4:2:0
    }
    if mpp is not None:
        tags |= {code: (_RATIONAL, _per_cm(mpp)) for code in (codes.X_RESOLUTION, codes.Y_RESOLUTION)}
        tags[codes.RESOLUTION_UNIT] = (_SHORT, [codes.CENTIMETRE])
    if tables is not None:
        tags[codes.JPEG_TABLES] = (_BYTES, tables)
    return tags


def _append_level(file: BinaryIO, link: int, tags: _Tags, tiles: Sequence[bytes]) -> int:
    """Append tiles and their directory, and write the directory's offset at `link`.

    It is written by hand because tifffile asks for imagecodecs even where tiles are encoded already.

    Returns:
        Where the offset of the next directory goes.
    """
    offsets = [file.tell()]
    for tile in tiles:
        file.write(tile)
        offsets.append(file.tell())
    tags = tags | {
        codes.TILE_OFFSETS: (_LONG, offsets[:-1]),
        codes.TILE_BYTE_COUNTS: (_LONG, [len(tile) for tile in tiles]),
    }
    entries = []
    for code, (kind, values) in sorted(tags.items()):
        raw = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)
        count = len(values) // 2 if kind == _RATIONAL else len(values)
        if len(raw) > 4:  # too long for the entry itself
            file.write(b"\0" * (file.tell() % 2))  # directories and values begin at even offsets
            at = file.tell()
            file.write(raw)
            raw = struct.pack("<I", at)
        entries.append(struct.pack("<HHI4s", code, kind, count, raw))  # 4s pads with zeros
    file.write(b"\0" * (file.tell() % 2))
    directory = file.tell()
    file.write(struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0))
    file.seek(link)
    file.write(struct.pack("<I", directory))
    file.seek(0, os.SEEK_END)
    return file.tell() - 4


def _reduced(image: Bytes, factor: int) -> Bytes:
    """The image divided by a whole number; as in scanners, what is left over of a side is left out."""
    width, height = (max(1, side // factor) for side in (image.shape[1], image.shape[0]))
    used = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(used, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _tiles(image: Bytes, tile_px: int) -> Iterator[Bytes]:
    """Tiles row by row; those that reach over the border repeat the last pixels, which JPEG encodes in few bytes."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            yield np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px])


def _jpeg(tile: Bytes, quality: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(tile, quality=quality, colorspace="RGB", colorsubsampling="420"))


def _split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """A JPEG stream as two streams: its tables, and the rest (TIFF Technical Note 2: abbreviated format)."""
    tables: list[bytes] = []
    rest: list[bytes] = []
    at = 2  # after the start of image
    while jpeg[at + 1] != 0xDA:  # start of scan
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        (tables if jpeg[at + 1] in (0xDB, 0xC4) else rest).append(jpeg[at:end])  # DQT, DHT
        at = end
    return b"\xff\xd8" + b"".join(tables) + b"\xff\xd9", b"\xff\xd8" + b"".join(rest) + jpeg[at:]


def _per_cm(mpp: float) -> tuple[int, int]:
    """Pixels per centimetre as TIFF's fraction of 32-bit integers, exact for an mpp of up to five digits."""
    per_cm = (10_000 / Fraction(str(mpp))).limit_denominator(400_000)
    return per_cm.numerator, per_cm.denominator
