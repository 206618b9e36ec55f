"""What scanners and laboratories do to an image: sharpness, noise, amounts of stain, thickness of the section, tint.

Detectors are taught that none of it matters: views are drawn as some scanner would show them (`as_scanned`), and what a
single change does to features is known from pairs (`scanner_pair`). All lengths are micrometres.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

PIXEL_SHARPNESS = 0.5
"""Deviation of the Gaussian that stands for the sharpness of an image as it is, in its pixels."""

NOISE_LEVELS, EXTRA_BLUR_UM, LEAST_BLUR_UM, TINT_OD = 2.0, 0.58, 0.24, 0.05
STAIN_SPREAD, CHANNEL_SPREAD, TOTAL_SPREAD = (0.2, 0.2, 0.1), 0.1, 0.12
"""Of `as_scanned`: the most noise in levels, blur and tint; deviations of the logarithms of amounts."""

Change = Literal["sharpness", "thickness", "tint"]
CHANGES: tuple[Change, ...] = ("sharpness", "thickness", "tint")
UNSHARP_SIGMA_UM, THICKER, VEIL_OD = 0.875, 1.2, 0.08
"""What scanners and laboratories are taken to differ in, and by how much, see `scanner_pair`."""

STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
"""Optical density of red, green and blue of haematoxylin, eosin and a residual (Ruifrok and Johnston 2001)."""

BLACK_OD = math.log(256.0)


def optical_density(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """-ln of the transmitted share of light, of x in [-1, 1]; white has a density of 0."""
    return BLACK_OD - torch.log((127.5 * (x + 1)).clamp(0, 255) + 1)


def from_density(density: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """The inverse of `optical_density`, in [-1, 1]."""
    return ((torch.exp(BLACK_OD - density) - 1) / 127.5 - 1).clamp(-1, 1)


def blurred(
    x: Float[Tensor, "n c h w"], sigma_px: Float[Tensor, " n"], *, most_px: float | None = None
) -> Float[Tensor, "n c h w"]:
    """Each image under a Gaussian of its own deviation, borders reflected; one below 0.2 px leaves it as it is.

    Where the greatest deviation that there can be is known, `most_px`, a GPU is not waited for to tell it.
    """
    n, channels, height, width = x.shape
    most = float(sigma_px.max()) if most_px is None else most_px
    radius = min(math.ceil(3 * most), min(height, width) - 1)
    if radius < 1:
        return x
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernels = torch.exp(-0.5 * (offsets / sigma_px.to(x.dtype).clamp_min(1e-3)[:, None]).square())
    kernels = torch.where((sigma_px < 0.2)[:, None], (offsets == 0).to(x.dtype), kernels)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(x.reshape(1, n * channels, height, width), (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernels[:, None, :, None], groups=n * channels)
    return F.conv2d(flat, kernels[:, None, None, :], groups=n * channels).reshape(x.shape)


def as_scanned(x: Float[Tensor, "n 3 h w"], *, mpp: float) -> Float[Tensor, "n 3 h w"]:
    """Each view as some scanner and some laboratory would show it: noise, blur, amounts of stain, tint."""
    n, device = len(x), x.device
    noise = torch.randn_like(x) * (uniform(n, 0.0, NOISE_LEVELS, device=device) / 127.5)[:, None, None, None]
    blur_um = uniform(n, 0.0, EXTRA_BLUR_UM, device=device)
    x = blurred(x + noise, torch.where(blur_um > LEAST_BLUR_UM, blur_um, 0) / mpp)
    density = optical_density(x.clamp(-1, 1))
    stains = torch.tensor(STAINS, device=device)
    stains = stains / stains.norm(dim=1, keepdim=True)
    amounts = torch.exp(torch.randn(n, 3, device=device) * torch.tensor(STAIN_SPREAD, device=device))
    channels = torch.exp(
        torch.randn(n, 3, device=device) * CHANNEL_SPREAD + torch.randn(n, 1, device=device) * TOTAL_SPREAD
    )
    # one 3 x 3 matrix a view: apart into stains, scaled, together again, scaled by channel
    mixing = torch.linalg.inv(stains) @ torch.diag_embed(amounts) @ stains @ torch.diag_embed(channels)
    tint = torch.rand(n, 3, device=device) * TINT_OD
    scaled = torch.einsum("nchw,ncd->ndhw", density, mixing) + tint[:, :, None, None]
    return from_density(scaled)


def scanner_pair(
    x: Float[Tensor, "n 3 h w"], change: Change, *, mpp: float
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]]:
    """Tiles as two scanners, or two laboratories, would show them, which differ in one thing.

    Args:
        x: tiles in [-1, 1].
        change: `sharpness`: under an unsharp mask, and blurred; `thickness`: of a section that takes up more stain, and
            as they are; `tint`: with a veil over all channels, and as they are.
        mpp: of the tiles, um/px.
    """
    match change:
        case "sharpness":
            soft = blurred(x, torch.full((len(x),), UNSHARP_SIGMA_UM / mpp, device=x.device))
            return (2 * x - soft).clamp(-1, 1), soft
        case "thickness":
            return from_density(THICKER * optical_density(x)), x
        case "tint":
            return from_density(optical_density(x) + VEIL_OD), x


def uniform(n: int, low: float, high: float, *, device: torch.device) -> Float[Tensor, " n"]:
    """Numbers drawn evenly between two."""
    return torch.rand(n, device=device) * (high - low) + low
