"""An image in a request, as base64 or as it is -> the tile that a detector sees, or an error text.

`tiles.images` decodes. What stands here is only about requests: base64, fewer formats, and a limit on the size that an
image's header may claim before anything is decoded.
"""

import base64
import binascii

from uadray.tiles import images
from uadray.tiles.images import ImageError, Pixels, centre_tile, check_covers

FORMATS = ("PNG", "JPEG")

MEDIA_TYPES = ("image/png", "image/jpeg")


def claimed_px(image: str | bytes, *, tile_px: int, max_image_px: int) -> int:
    """Pixels that decoding an image will take, by its header; 0 for one that `decode_tile` refuses by its header."""
    try:
        _, width, height = _checked(image, tile_px=tile_px, max_image_px=max_image_px)
    except ImageError:
        return 0
    return width * height


def decode_tile(image: str | bytes, *, tile_px: int, max_image_px: int) -> Pixels:
    """A PNG or JPEG, as text in base64, -> RGB [tile_px, tile_px, 3]; a larger image is cropped to its centre.

    Raises:
        ImageError: not base64, not an image, damaged, smaller than `tile_px` or larger than `max_image_px`.
    """
    data, _, _ = _checked(image, tile_px=tile_px, max_image_px=max_image_px)
    # A copy, because a view would keep the whole image in memory for as long as the tile exists.
    return centre_tile(images.decode(data, formats=FORMATS), tile_px).copy()


def _checked(image: str | bytes, *, tile_px: int, max_image_px: int) -> tuple[bytes, int, int]:
    """The bytes of the image file, and the width and height that its header claims."""
    try:
        data = image if isinstance(image, bytes) else base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("image is not base64") from error
    width, height = images.size_px(data, formats=FORMATS)
    if max(width, height) > max_image_px:
        raise ImageError(f"{width} x {height} px, at most {max_image_px} px a side are decoded")
    check_covers(width, height, tile_px)
    return data, width, height
