"""Between a tile's bytes and a network's input."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

Pixels = npt.NDArray[np.uint8]


def to_input(pixels: Pixels, input_px: int) -> Float[Tensor, "n 3 h w"]:
    """RGB bytes [N, tile, tile, 3] -> the centre `input_px` of each tile, in [-1, 1].

    Raises:
        ValueError: tiles smaller than `input_px`.
    """
    if min(pixels.shape[1:3]) < input_px:
        raise ValueError(f"tiles of {pixels.shape[2]} x {pixels.shape[1]} px, the detector needs {input_px} px")
    margin = (pixels.shape[1] - input_px) // 2
    cropped = pixels[:, margin : margin + input_px, margin : margin + input_px]
    return torch.from_numpy(np.require(cropped, requirements=["C", "W"])).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pixels(x: Float[Tensor, "n 3 h w"]) -> Pixels:
    """[-1, 1] -> RGB bytes [N, h, w, 3]; what lies outside is clipped."""
    scaled = x.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return np.ascontiguousarray(scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
