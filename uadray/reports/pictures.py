"""Pictures as bytes, and pictures beside each other.

Images are RGB, uint8 [h, w, 3]. Nothing in `reports/` draws words or numbers into a picture: the page that shows the
picture labels it.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""RGB picture, [h, w, 3]."""


def sample_grid(x: Image, x_hat: Image | None, *, columns: int = 8, gap_px: int = 4) -> Image:
    """Originals over their reconstructions, as a training run's sample page.

    Args:
        x: originals, uint8 [N, H, W, 3], N at least 1.
        x_hat: reconstructions, of the same shape; None shows the originals alone.
        columns: pairs in a row.
        gap_px: white pixels between pairs; a reconstruction touches its original.

    Returns:
        uint8 [rows * (2 H + gap) - gap, columns * (W + gap) - gap, 3], white where no pair is.

    Raises:
        ValueError: shapes differ, or there is nothing to show.
    """
    if x_hat is None:
        x_hat = x[:, :0]
    elif x.shape != x_hat.shape:
        raise ValueError(f"sample grid: expected two [N, H, W, 3] of one shape, got {x.shape} and {x_hat.shape}")
    if x.ndim != 4 or x.shape[-1] != 3 or len(x) == 0:
        raise ValueError(f"sample grid: expected [N, H, W, 3], got {x.shape}")
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    pairs = np.concatenate([x, x_hat], axis=1)
    step_y, step_x = pairs.shape[1] + gap_px, pairs.shape[2] + gap_px
    page = np.full((rows * step_y - gap_px, columns * step_x - gap_px, 3), 255, np.uint8)
    for index, pair in enumerate(pairs):
        y, x0 = index // columns * step_y, index % columns * step_x
        page[y : y + pair.shape[0], x0 : x0 + pair.shape[1]] = pair
    return page


def encode_jpeg(image: Image, *, quality: int = 90) -> bytes:
    """Encode as JPEG with full colour resolution (4:4:4): thin coloured lines stay sharp.

    Raises:
        ValueError: not uint8 [h, w, 3].
    """
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])


def decode_jpeg(data: bytes) -> Image:
    """The picture in a JPEG that was made here."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def encode_png(image: Image) -> bytes:
    """Encode as PNG, without loss.

    Raises:
        ValueError: not uint8 [h, w, 3].
    """
    return _encode(image, ".png", [])


def pale_grey(picture: Image) -> Image:
    """The picture in light grey, on which colours are seen."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.repeat((125 + grey * (130 / 255)).astype(np.uint8)[..., None], 3, axis=2)


def check_image(image: Image) -> None:
    """Refuse what is no RGB picture.

    Raises:
        ValueError: not uint8 [h, w, 3], or empty.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"picture: expected uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")


def _encode(image: Image, suffix: str, options: Sequence[int]) -> bytes:
    check_image(image)
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(options))
    if not done:
        raise ValueError(f"picture of {list(image.shape)}: could not be encoded as {suffix}")
    return bytes(data)
