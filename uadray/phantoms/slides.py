"""Phantom archives: slides as files, with outlines and a manifest, for `uadray demo` and the tests.

`write_pyramid` makes a real file of any RGB image: a pyramidal TIFF of JPEG tiles, as scanners write, that OpenSlide
opens as `generic-tiff`. `write_archive` paints phantoms (`phantom_tissue`) and writes them with all that goes along.
"""

import csv
import json
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
from uadray.phantoms.tissue import STAINS, PhantomSpec, Polygon, paint

__all__ = ["PhantomSpec", "paint", "write_archive", "write_pyramid"]

JPEG_QUALITY = 87  # Aperio and Hamamatsu scanners write about 70 to 90
DOWNSAMPLES = (2, 4)  # a level within a factor 2 of any resolution that demo and tests ask for


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
    """Write an image as a pyramidal TIFF of JPEG tiles (4:2:0), whole or not at all.

    Args:
        path: the file; replaced if there.
        image: RGB uint8 [H, W, 3].
        mpp: micrometres per pixel of the image, kept exactly; None leaves the resolution out.
        tile_px: side of a tile, a multiple of 16.
        downsamples: of the further levels, against the image.
        jpeg_quality: 1 to 100.
        shared_tables: keep JPEG tables once a level (tag JPEGTables), as scanners do, or in every tile.

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


def write_archive(
    folder: Path,
    *,
    n_slides: int,
    n_lesion: int,
    seed: int,
    size_px: int = 2048,
    mpp: float = 0.5,
    prefix: str = "phantom",
) -> Path:
    """Paint an archive: `<prefix>_000.tif`, its outlines `<prefix>_000.geojson`, and so on, and `manifest.csv`.

    The last `n_lesion` slides have lesions. Stains alternate, so that they say nothing about lesions.

    Args:
        folder: made if missing; files of the same names are replaced.
        n_slides: slides in all.
        n_lesion: of these, slides with lesions.
        seed: another seed gives other slides.
        size_px: side of a slide at level 0.
        mpp: micrometres per pixel at level 0.
        prefix: of every slide id.

    Returns:
        The manifest: slide_id, uri (relative to it), mpp, label (`normal` or `lesion`), stain (`0` or `1`).

    Raises:
        ValueError: more slides with lesions than slides.
    """
    if not 0 <= n_lesion <= n_slides:
        raise ValueError(f"expected 0 <= n_lesion <= n_slides, got {n_lesion} of {n_slides}")
    folder.mkdir(parents=True, exist_ok=True)
    seeds = np.random.SeedSequence(seed).generate_state(n_slides, np.uint64).tolist()
    rows = []
    for index in range(n_slides):
        lesion = index >= n_slides - n_lesion
        spec = PhantomSpec(size_px, size_px, mpp, lesion=lesion, stain=index % len(STAINS), seed=seeds[index])
        slide_id = f"{prefix}_{index:03d}"
        image, outlines = paint(spec)
        write_pyramid(folder / f"{slide_id}.tif", image, mpp=mpp)
        (folder / f"{slide_id}.geojson").write_text(json.dumps(_geojson(outlines)) + "\n")
        rows.append((slide_id, f"{slide_id}.tif", mpp, "lesion" if lesion else "normal", spec.stain))
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("slide_id", "uri", "mpp", "label", "stain"), *rows])
    return manifest


_BYTES, _ASCII, _SHORT, _LONG, _RATIONAL = 7, 2, 3, 4, 5  # TIFF 6.0, section 2: types of fields
_FORMATS = {_SHORT: "H", _LONG: "I", _RATIONAL: "I"}
_Tags = dict[int, tuple[int, bytes | Sequence[int]]]


def _tags(level: Bytes, factor: int, mpp: float | None, tile_px: int, tables: bytes | None) -> _Tags:
    """Tags of one level, but for where its tiles lie (TIFF 6.0; JPEG: Technical Note 2)."""
    tags: _Tags = {
        254: (_LONG, [0 if factor == 1 else 1]),  # NewSubfileType: a reduced image, which OpenSlide goes by
        256: (_LONG, [level.shape[1]]),
        257: (_LONG, [level.shape[0]]),
        258: (_SHORT, [8, 8, 8]),
        259: (_SHORT, [7]),  # Compression: JPEG
        262: (_SHORT, [6]),  # PhotometricInterpretation: YCbCr
        277: (_SHORT, [3]),
        284: (_SHORT, [1]),  # PlanarConfiguration: interleaved
        305: (_ASCII, b"uadray\0"),
        322: (_LONG, [tile_px]),
        323: (_LONG, [tile_px]),
        530: (_SHORT, [2, 2]),  # YCbCrSubSampling: 4:2:0
    }
    if mpp is not None:
        tags |= {282: (_RATIONAL, _per_cm(mpp)), 283: (_RATIONAL, _per_cm(mpp)), 296: (_SHORT, [3])}  # 3: centimetre
    if tables is not None:
        tags[347] = (_BYTES, tables)
    return tags


def _append_level(file: BinaryIO, link: int, tags: _Tags, tiles: Sequence[bytes]) -> int:
    """Append tiles and their directory, and point `link` to it. Returns where the next directory's offset goes.

    Written by hand because tifffile asks for imagecodecs even where tiles come ready encoded.
    """
    offsets = [file.tell()]
    for tile in tiles:
        file.write(tile)
        offsets.append(file.tell())
    tags = tags | {324: (_LONG, offsets[:-1]), 325: (_LONG, [len(tile) for tile in tiles])}
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        raw = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)
        count = len(values) // 2 if kind == _RATIONAL else len(values)
        if len(raw) > 4:  # too long for the entry itself
            file.write(b"\0" * (file.tell() % 2))  # directories and values begin at even offsets
            at = file.tell()
            file.write(raw)
            raw = struct.pack("<I", at)
        entries.append(struct.pack("<HHI4s", tag, kind, count, raw))  # 4s pads with zeros
    file.write(b"\0" * (file.tell() % 2))
    directory = file.tell()
    file.write(struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0))
    file.seek(link)
    file.write(struct.pack("<I", directory))
    file.seek(0, os.SEEK_END)
    return file.tell() - 4


def _reduced(image: Bytes, factor: int) -> Bytes:
    """As scanners do it: what is left over of a side is left out."""
    width, height = (max(1, side // factor) for side in (image.shape[1], image.shape[0]))
    used = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(used, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _tiles(image: Bytes, tile_px: int) -> Iterator[Bytes]:
    """Tiles in reading order; those over the border repeat the last pixels, which JPEG keeps cheap and clean."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            yield np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px])


def _jpeg(tile: Bytes, quality: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(tile, quality=quality, colorspace="RGB", colorsubsampling="420"))


def _split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """Part a JPEG stream into its tables and the rest, two streams (TIFF Technical Note 2: abbreviated format)."""
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


def _geojson(outlines: Sequence[Polygon]) -> dict[str, object]:
    """Outlines as QuPath reads them: closed rings in level-0 pixels."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*outline.tolist(), outline[0].tolist()]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Lesion"}},
        }
        for outline in outlines
    ]
    return {"type": "FeatureCollection", "features": features}
