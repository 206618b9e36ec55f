"""Two views of a tile that show the same tissue: elsewhere in the tile, turned, nearer, stained and focused otherwise.

Drawn where the tiles lie, for a whole batch at once, from torch's own random numbers. What the views of a tile share
is what an encoder learns, so that each change here is something that it learns to overlook (Chen et al. 2020, section
3). Changes are those of tissue under a microscope: of colours only the amounts of stain (Tellez et al. 2018), and sizes
change little, since the size of nuclei tells much.
"""

import math
from functools import cache

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from uadray import config as configuration
from uadray.detectors.views.scanners import STAINS, blurred, from_density, optical_density, uniform
from uadray.tiles.stain import STAINED

UNSCALED = 0.5
"""Share of views that are cut at whole pixels and not resampled: as sharp as the tiles that are scored."""

BLURRED = 0.5
"""Share of views that are blurred (Chen et al. 2020, appendix A)."""

LUMA = (0.299, 0.587, 0.114)


class Config(configuration.Config):
    """How views differ.

    Attributes:
        view_px: side of a view, in pixels of the tile; None: that of the tile.
        zoom: views are enlarged or reduced up to so many times, as far as the tile reaches.
        stain: amounts of haematoxylin, eosin and what is neither are scaled by 1 -+ this and shifted by -+ this, in
            optical density; 0.05 is light, 0.2 strong (Tellez et al. 2019).
        blur_px: greatest deviation of the Gaussian under which half of the views are.
        noise_levels: greatest deviation of the noise, in grey levels of 255.
        grey_share: of views without colours (Chen et al. 2020: 0.2).
    """

    view_px: int | None = Field(default=None, ge=16, le=1024, multiple_of=16)
    zoom: float = Field(default=1.25, ge=1, le=4)
    stain: float = Field(default=0.2, ge=0, lt=1)
    blur_px: float = Field(default=1.0, ge=0, le=4)
    noise_levels: float = Field(default=4.0, ge=0, le=64)
    grey_share: float = Field(default=0.1, ge=0, le=1)


@torch.no_grad()
def view_of(x: Float[Tensor, "n 3 h w"], config: Config, *, enlarged: int = 1) -> Float[Tensor, "n 3 h2 w2"]:
    """One random view of each tile x in [-1, 1], in full precision, channels last.

    Args:
        x: square tiles.
        config: see there.
        enlarged: so many pixels of the view's side for one of the tile's.
    """
    with torch.autocast(x.device.type, enabled=False):
        view = cut(x.float(), view_px=config.view_px or x.shape[-1], zoom=config.zoom, enlarged=enlarged)
        view = restained(view, config.stain)
        n, device = len(view), view.device
        grey = (view * _constant(LUMA, device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        is_grey = torch.rand(n, device=device) < config.grey_share
        view = torch.where(is_grey[:, None, None, None], grey, view)
        sigma = uniform(n, 0.0, config.blur_px, device=device) * (torch.rand(n, device=device) < BLURRED)
        view = blurred(view, sigma, most_px=config.blur_px)
        deviation = uniform(n, 0.0, config.noise_levels / 127.5, device=device)
        view = view + torch.randn_like(view) * deviation[:, None, None, None]
        return view.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def cut(x: Float[Tensor, "n 3 h w"], *, view_px: int, zoom: float, enlarged: int = 1) -> Float[Tensor, "n 3 h2 w2"]:
    """A random square of each tile, flipped, turned by quarters and resized to one side; bicubic, within [-1, 1].

    Of the squares half are `view_px` wide, the others up to `zoom` times wider or narrower, none wider than the tile.
    All begin at whole pixels, so that one that is not resized has the tile's own values.
    """
    n, side_px, device = len(x), x.shape[-1], x.device
    times = torch.exp(uniform(n, -math.log(zoom), math.log(zoom), device=device))
    times = torch.where(torch.rand(n, device=device) < UNSCALED, 1.0, times)
    widths_px = (view_px * times).clamp(max=side_px)
    starts_px = torch.round(torch.rand(n, 2, device=device) * (side_px - widths_px)[:, None])
    starts_px = torch.minimum(starts_px, (side_px - widths_px)[:, None])
    centres = (2 * starts_px + widths_px[:, None]) / side_px - 1  # in [-1, 1], as grids have them
    turn = _turns(n, device) * (widths_px / side_px)[:, None, None]
    theta = torch.cat([turn, centres[:, :, None]], 2)
    grid = F.affine_grid(theta, [n, 3, view_px * enlarged, view_px * enlarged], align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)


def _turns(n: int, device: torch.device) -> Float[Tensor, "n 2 2"]:
    """One of the eight symmetries of a square for each: signs of both axes, which may be swapped."""
    signs = 2.0 * torch.randint(2, (n, 2), device=device) - 1
    straight = torch.diag_embed(signs)
    is_swapped = torch.rand(n, device=device) < 0.5
    return torch.where(is_swapped[:, None, None], straight.flip(2), straight)


def restained(x: Float[Tensor, "n 3 h w"], sigma: float) -> Float[Tensor, "n 3 h w"]:
    """Amounts of stain scaled by 1 -+ sigma and shifted by -+ sigma, anew for each image (Tellez et al. 2018).

    Glass is not shifted, so that white stays white: the shift begins where the density of green is `STAINED`, and is
    whole at twice that, as in `uadray.tiles.stain_augment`.
    """
    if sigma == 0:
        return x
    n, device = len(x), x.device
    stains, unmixing = _stains(device)
    scales = uniform(3 * n, 1 - sigma, 1 + sigma, device=device).view(n, 3)
    shifts = uniform(3 * n, -sigma, sigma, device=device).view(n, 3) @ stains
    mixing = unmixing @ torch.diag_embed(scales) @ stains
    density = optical_density(x)
    share = (density[:, 1:2] / STAINED - 1).clamp(0, 1)
    scaled = torch.einsum("nchw,ncd->ndhw", density, mixing)
    return from_density(scaled + shifts[:, :, None, None] * share)


@cache
def _stains(device: torch.device) -> tuple[Tensor, Tensor]:
    """Densities of red, green and blue of each stain [3, 3], of length 1, and the inverse; once on each device."""
    stains = torch.tensor(STAINS)
    stains = stains / stains.norm(dim=1, keepdim=True)
    return stains.to(device), torch.linalg.inv(stains).to(device)


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)
