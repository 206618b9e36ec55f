"""The bytes of an image file -> the RGB pixels that a detector sees: one rule for tile sets and for the endpoint.

    8 bits a channel        as they are
    16 bits                 the upper eight
    grey, black and white   the same in all three channels
    palette, CMYK, YCbCr    as RGB
    transparent             on white, as what lies outside a slide
    orientation (EXIF)      turned upright
    32 bits, floats         refused: the file does not say which value is white

Sizes are read from the header first: nothing is allocated for an image that claims to be larger than any tile. An image
that is larger than a detector's tile is cropped to its centre.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "JPEG2000")
"""Names of Pillow. None of its other decoders is tried on bytes that others wrote."""

MAX_IMAGE_PX = 64 * 2**20
"""Pixels of an image at the most: a few kilobytes of PNG can claim gigabytes, and no tile is so large."""

MAX_SCANS = 100
"""Of a progressive JPEG at the most: each scan goes over the whole image again. Encoders write about ten."""

_JPEG = ("JPEG", "MPO")  # MPO is a file of several JPEGs, of which the first is taken
_ORIENTATION = 0x0112


class ImageError(Exception):
    """An image cannot be used; the message says why, in a few words."""


def size_px(data: bytes, *, formats: tuple[str, ...] = FORMATS) -> tuple[int, int]:
    """Width and height that the header claims, before the image is turned upright; nothing is decoded.

    Raises:
        ImageError: the format is none of `formats`.
    """
    with _opened(data, formats) as image:
        return image.size


def decode(data: bytes, *, max_px: int = MAX_IMAGE_PX, formats: tuple[str, ...] = FORMATS) -> Pixels:
    """The pixels of an image file, upright: RGB [h, w, 3].

    Raises:
        ImageError: the format is none of `formats`, or the image claims more than `max_px` pixels, is damaged, or has
            pixels of 32 bits.
    """
    with _opened(data, formats) as image:
        width, height = image.size
        if width * height > max_px:
            raise ImageError(f"{width} x {height} px, at most {max_px} pixels are decoded")
        try:
            if image.format in _JPEG and data.count(b"\xff\xda") > MAX_SCANS:
                raise ImageError(f"JPEG of more than {MAX_SCANS} scans")
            # Both use libjpeg-turbo; simplejpeg takes two thirds of the time, and refuses an image that breaks off.
            pixels = _jpeg(data) if image.format in _JPEG and image.mode in ("RGB", "L") else _rgb(image)
            # Read after the pixels: a PNG may have its EXIF behind them, and a TIFF that Pillow has turned by then has
            # no orientation any more.
            return _upright(pixels, image.getexif().get(_ORIENTATION, 1))
        except ImageError:
            raise
        except Exception as error:  # decoders raise many kinds of errors on damaged data
            raise ImageError("image is damaged and cannot be decoded") from error


def check_covers(width_px: int, height_px: int, tile_px: int) -> None:
    """Refuse an image that is smaller than a detector's tile.

    Raises:
        ImageError: one side is shorter than `tile_px`.
    """
    if min(width_px, height_px) < tile_px:
        raise ImageError(f"{width_px} x {height_px} px, the bundle needs {tile_px} px")


def centre_tile(pixels: Pixels, tile_px: int) -> Pixels:
    """The centre of an image [h, w, 3] as a tile: RGB [tile_px, tile_px, 3], a view.

    Raises:
        ImageError: one side is shorter than `tile_px`.
    """
    height, width = pixels.shape[:2]
    check_covers(width, height, tile_px)
    top, left = (height - tile_px) // 2, (width - tile_px) // 2
    return pixels[top : top + tile_px, left : left + tile_px]


@contextmanager
def _opened(data: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The image with its header read, not decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("image claims more pixels than any tile has, and is not decoded") from error
    except Exception as error:  # likewise
        expected = " or ".join([", ".join(formats[:-1]), formats[-1]] if len(formats) > 1 else formats)
        raise ImageError(f"not an image that can be decoded; expected {expected}") from error
    with image:
        yield image


def _jpeg(data: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return pixels


def _rgb(image: Image.Image) -> Pixels:
    """RGB [h, w, 3] of any kind of image, by the table of this module."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ImageError("pixels of 32 bits; expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (1 to 8)."""
    if orientation not in range(2, 9):
        return pixels
    is_mirrored = orientation in (2, 4, 5, 7)
    if is_mirrored:
        pixels = pixels[:, ::-1]
    turns = {2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    return np.ascontiguousarray(np.rot90(pixels, turns))
