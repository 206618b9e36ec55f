"""An image file's bytes -> the RGB pixels that a detector sees. Tile sets and the endpoint decode with this alone.

    8 bits a channel        as they are
    16 bits                 the upper eight
    grey, black and white   the same in all three channels
    palette, CMYK, YCbCr    as RGB
    transparent             on white, as what lies outside a slide
    orientation (EXIF)      turned upright
    32 bits, floats         refused: nobody says which value is white

Sizes are read from the header first: nothing is allocated for an image that claims to be larger than any tile.
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
"""By Pillow's names; no other decoder of Pillow is tried on foreign bytes."""

MAX_IMAGE_PX = 64 * 2**20
"""Pixels of an image; what has more is no tile. Some kilobytes of PNG can claim gigabytes."""

MAX_SCANS = 100
"""Of a progressive JPEG: each scan goes over the whole image again. Encoders write about ten."""

_JPEG = ("JPEG", "MPO")  # the second: a JPEG that others follow, of which the first is taken
_ORIENTATION = 0x0112


class ImageError(Exception):
    """Why bytes cannot be had as pixels, in a few words."""


def size_px(data: bytes, *, formats: tuple[str, ...] = FORMATS) -> tuple[int, int]:
    """Width and height that the header claims, before it is turned upright; nothing is decoded.

    Raises:
        ImageError: it is none of `formats`.
    """
    with _opened(data, formats) as image:
        return image.size


def decode(data: bytes, *, max_px: int = MAX_IMAGE_PX, formats: tuple[str, ...] = FORMATS) -> Pixels:
    """RGB [h, w, 3].

    Raises:
        ImageError: it is none of `formats`, claims more than `max_px` pixels, is damaged, or has pixels of 32 bits.
    """
    with _opened(data, formats) as image:
        width, height = image.size
        if width * height > max_px:
            raise ImageError(f"{width} x {height} px, at most {max_px} pixels are decoded")
        try:
            if image.format in _JPEG and data.count(b"\xff\xda") > MAX_SCANS:
                raise ImageError(f"JPEG of more than {MAX_SCANS} scans")
            # libjpeg-turbo in both; simplejpeg takes two thirds of the time, and refuses what is only partly there
            pixels = _jpeg(data) if image.format in _JPEG and image.mode in ("RGB", "L") else _rgb(image)
            # after the pixels: a PNG may say it behind them, and a TIFF that was turned by then says no more
            return _upright(pixels, image.getexif().get(_ORIENTATION, 1))
        except ImageError:
            raise
        except Exception as error:  # decoders raise whatever they stumble over
            raise ImageError("image is damaged and cannot be decoded") from error


@contextmanager
def _opened(data: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("image claims more pixels than any tile has, and is not decoded") from error
    except Exception as error:  # as above
        expected = " or ".join([", ".join(formats[:-1]), formats[-1]] if len(formats) > 1 else formats)
        raise ImageError(f"not an image that can be decoded; expected {expected}") from error
    with image:
        yield image


def _jpeg(data: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return pixels


def _rgb(image: Image.Image) -> Pixels:
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
    if orientation in (2, 4, 5, 7):  # mirrored
        pixels = pixels[:, ::-1]
    turns = {2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    return np.ascontiguousarray(np.rot90(pixels, turns))
