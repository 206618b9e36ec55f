"""Tiles of a slide as JPEG bytes.

Where a tile is exactly one JPEG tile of the slide's file, those bytes are kept: no quality is lost, and nothing is
encoded. All other tiles have the pixels that screening reads, encoded as JPEG 4:4:4.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import simplejpeg

from uadray.errors import SlideError
from uadray.slides.slide import Slide
from uadray.slides.tiff.slide import TiffSlide
from uadray.slides.tile_reading import read_place
from uadray.tiles import images
from uadray.tiles.chunks import places_of, read_chunks
from uadray.tiles.quality import pixel_flags
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain_normalize import Normalizer


class EncodedTile(NamedTuple):
    """One tile as JPEG.

    Attributes:
        row: of the table of tiles.
        jpeg: its bytes.
        is_files: whether these are the bytes of the slide's file.
    """

    row: int
    jpeg: bytes
    is_files: bool


def encoded_tiles(
    slide: Slide, tiles: pa.Table, spec: TileSpec, *, quality: int, normalise: Normalizer | None,
    left_out: Counter[str],
) -> Iterator[EncodedTile]:  # fmt: skip
    """The tiles of a table of schema `TILES` as JPEG.

    Args:
        slide: that they are cut from.
        tiles: which.
        spec: how they are cut.
        quality: of JPEG, where the file's bytes cannot be kept.
        normalise: changes the colours of tiles; None leaves them.
        left_out: counts the tiles that are `unreadable` or `flagged`, which are not yielded.

    Raises:
        SlideError: something other than a single tile cannot be read, see `read_chunks`.
    """
    if isinstance(slide, TiffSlide) and len(tiles) and normalise is None and _is_file_grid(slide, tiles, spec):
        yield from _file_tiles(slide, tiles, spec, quality, left_out)
        return
    start = 0
    for chunk in read_chunks(slide, tiles, spec=spec, normalise=normalise):
        for i, (error, flag) in enumerate(zip(chunk.errors, chunk.flags, strict=True)):
            if error is None and flag is None:
                yield EncodedTile(start + i, encode(chunk.pixels[i], quality), False)
            else:
                left_out["flagged" if error is None else "unreadable"] += 1
        start += len(chunk.errors)


def encode(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    """RGB [h, w, 3] as JPEG 4:4:4."""
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="444")
    )


def _is_file_grid(slide: TiffSlide, tiles: pa.Table, spec: TileSpec) -> bool:
    """Whether tiles have the size and the scale of the file's tiles: only then can one be the other."""
    tiles_at = places_of(slide, tiles, spec)
    is_same_scale = all(round(step, 9) == 1 for step in tiles_at.steps)
    return is_same_scale and slide.tile_sizes_px[tiles_at.level] == (spec.tile_px, spec.tile_px)


def _file_tiles(
    slide: TiffSlide, tiles: pa.Table, spec: TileSpec, quality: int, left_out: Counter[str]
) -> Iterator[EncodedTile]:
    """Tiles as JPEG, with the file's bytes where a tile is one of the file's and those bytes decode to its pixels."""
    tiles_at = places_of(slide, tiles, spec)
    slide.will_read(tiles_at.level, tiles_at.boxes)
    for i, box in enumerate(tiles_at.boxes.tolist()):
        pixels = np.empty((spec.tile_px, spec.tile_px, 3), np.uint8)
        try:
            data = slide.encoded_tile(tiles_at.level, *box) if tiles_at.exact[i] else None
            read_place(slide, tiles_at, i, pixels)
        except SlideError as error:
            if error.reason != "unreadable":
                raise
            left_out["unreadable"] += 1
            continue
        if spec.quality is not None and pixel_flags(pixels[None], spec.mpp, spec.quality)[0]:
            left_out["flagged"] += 1
        elif data is not None and _decodes_to(data, pixels):
            yield EncodedTile(i, data, True)
        else:
            yield EncodedTile(i, encode(pixels, quality), False)


def _decodes_to(data: bytes, pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether readers of the tile set will see exactly these pixels."""
    try:
        return np.array_equal(images.decode(data), pixels)
    except images.ImageError:
        return False
