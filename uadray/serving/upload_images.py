"""base64 -> the tile a detector looks at, or an error text. Nothing is decoded that claims to be too large."""

import base64
import binascii

from uadray.tiles import images
from uadray.tiles.images import ImageError, Pixels

FORMATS = ("PNG", "JPEG")


def claimed_px(image: str, *, tile_px: int, max_image_px: int) -> int:
    """Pixels that decoding a base64 image will take, by its header; 0 for one that `decode_tile` refuses unseen."""
    try:
        _, width, height = _checked(image, tile_px=tile_px, max_image_px=max_image_px)
    except ImageError:
        return 0
    return width * height


def decode_tile(image: str, *, tile_px: int, max_image_px: int) -> Pixels:
    """A PNG or JPEG in base64 -> RGB [tile_px, tile_px, 3]; a larger one is cropped to its centre.

    Raises:
        ImageError: not base64, not an image, damaged, smaller than `tile_px` or larger than `max_image_px`.
    """
    data, _, _ = _checked(image, tile_px=tile_px, max_image_px=max_image_px)
    decoded = images.decode(data, formats=FORMATS)
    top, left = ((n - tile_px) // 2 for n in decoded.shape[:2])
    # a copy: a view would keep the whole image for as long as there is the tile
    return decoded[top : top + tile_px, left : left + tile_px].copy()


def _checked(image: str, *, tile_px: int, max_image_px: int) -> tuple[bytes, int, int]:
    """The file's bytes, and the width and height that its header claims."""
    try:
        data = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("image is not base64") from error
    width, height = images.size_px(data, formats=FORMATS)
    if max(width, height) > max_image_px:
        raise ImageError(f"{width} x {height} px, at most {max_image_px} px a side are decoded")
    if min(width, height) < tile_px:
        raise ImageError(f"{width} x {height} px, the bundle needs {tile_px} px")
    return data, width, height
