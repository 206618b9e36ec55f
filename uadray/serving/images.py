"""base64 -> the tile a detector looks at, or an error text. Nothing is decoded that claims to be too large."""

import base64
import binascii
import struct

import cv2
import numpy as np
import simplejpeg

from uadray.models.pixels import Pixels

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"


class ImageError(Exception):
    """Why an image cannot be scored."""


def decode_tile(image: str, *, tile_px: int, max_image_px: int) -> Pixels:
    """A PNG or JPEG in base64 -> RGB [tile_px, tile_px, 3]; a larger one is cropped to its centre.

    Raises:
        ImageError: not base64, not an image, damaged, smaller than `tile_px` or larger than `max_image_px`.
    """
    try:
        data = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("image is not base64") from error
    width, height = _size(data)
    if max(width, height) > max_image_px:
        raise ImageError(f"{width} x {height} px, at most {max_image_px} px a side are decoded")
    if min(width, height) < tile_px:
        raise ImageError(f"{width} x {height} px, the bundle needs {tile_px} px")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if decoded is None:
        raise ImageError("image is damaged and cannot be decoded")
    top, left = ((n - tile_px) // 2 for n in decoded.shape[:2])
    return np.asarray(decoded[top : top + tile_px, left : left + tile_px], dtype=np.uint8)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height as the header has them, of a file that is whole."""
    if data.startswith(PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return int(width), int(height)
    if data.startswith(JPEG):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise ImageError("image is damaged and cannot be decoded") from error
        return int(width), int(height)
    raise ImageError("image is neither PNG nor JPEG")
