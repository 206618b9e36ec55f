"""Between a tile's bytes and a network's input. Bytes travel, to a GPU too; floats are made where they are used."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from uadray.tiles.images import Pixels

__all__ = ["Pixels", "centre", "staged", "to_float", "to_input", "to_pixels"]


def centre(pixels: Pixels, input_px: int) -> Pixels:
    """The centre `input_px` of RGB tiles [N, tile, tile, 3], a view: what a detector looks at.

    Raises:
        ValueError: tiles smaller than `input_px`.
    """
    if min(pixels.shape[1:3]) < input_px:
        raise ValueError(f"tiles of {pixels.shape[2]} x {pixels.shape[1]} px, the detector needs {input_px} px")
    margin = (pixels.shape[1] - input_px) // 2
    return pixels[:, margin : margin + input_px, margin : margin + input_px]


def staged(pixels: Pixels, input_px: int, *, is_pinned: bool = False) -> UInt8[Tensor, "n h w 3"]:
    """The centre of each tile as bytes of its own, on the host; in pinned memory a GPU fetches them by itself.

    Raises:
        ValueError: see `centre`.
    """
    cropped = centre(pixels, input_px)
    bytes_ = torch.empty(cropped.shape, dtype=torch.uint8, pin_memory=is_pinned)
    bytes_.numpy()[:] = cropped
    return bytes_


def to_float(pixels: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Bytes -> [-1, 1] on the same device; as it lies in memory it is `channels_last`."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_input(pixels: Pixels, input_px: int) -> Float[Tensor, "n 3 h w"]:
    """RGB bytes [N, tile, tile, 3] -> the centre `input_px` of each tile, in [-1, 1], on the CPU.

    Raises:
        ValueError: see `centre`.
    """
    return to_float(staged(pixels, input_px))


def to_pixels(x: Float[Tensor, "n 3 h w"]) -> Pixels:
    """[-1, 1] -> RGB bytes [N, h, w, 3]; what lies outside is clipped."""
    scaled = x.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255)
    return np.ascontiguousarray(scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
