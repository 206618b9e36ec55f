"""Views of normal tiles with their nuclei enlarged: the synthetic anomalies of `uadray.detectors.enlarged_nuclei`.

Kin of foreign patch interpolation (Tan et al. 2020, https://arxiv.org/abs/2011.04197) and CutPaste (Li et al. 2021,
https://arxiv.org/abs/2104.04015): a piece of another tile, here magnified, is mixed in. All lengths are micrometres, so
that a detector learns the same at any mpp. The numbers were chosen on tiles of lymph nodes (DECISIONS.md).

A view is sharp to one and the same degree whatever its magnification, and has the amounts of stain, the tint and the
noise of a scanner drawn at random: none of them tells whether nuclei were enlarged.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.views.scanners import PIXEL_SHARPNESS, as_scanned, blurred, from_density, optical_density, uniform

Kind = Literal["normal", "glass", "enlarged_pink", "spindle", "enlarged", "pasted", "pasted_rich"]

SHARES: dict[Kind, int] = {
    "normal": 1000, "glass": 400, "enlarged_pink": 300, "spindle": 300,
    "enlarged": 800, "pasted": 700, "pasted_rich": 400,
}  # fmt: skip
"""How many views of each kind there are, in proportion. Glass is not in every training's tiles, and without it the head
takes what is bright for enlarged."""

GLASS_LEVELS, GLASS_SPREAD = (225.0, 250.0), 8.0
"""Of bare glass, in all channels; tiles whose green has a smaller deviation are glass: no views are made of them."""

SHARPNESS_UM = (0.875, 1.166)
"""Deviation of the Gaussian that stands for the sharpness of a view."""

NUCLEI_OD, NUCLEI_SIGMA_UM = 0.5, 0.78
"""Where the optical density of red, blurred so much, is above this there is a nucleus."""

RICH, PINK, PINK_GREEN = 0.2, 0.15, 190.0
"""Share of nuclei in the centre above which a tile is rich in nuclei, and below which it is pink, if its centre's green
is below the level given: neither fat nor glass."""

PLAIN_ZOOM, STRETCH = (0.8, 1.12), (1.6, 2.8)
"""Magnification of what is not enlarged, and of spindle nuclei along their axis."""

NUCLEI_WEIGHT, OFFSET_UM = (0.3, 0.7), 7.8
"""Share of the enlarged nuclei in the mixture with pink tissue, and how far from a tile's centre they are taken."""

BLOB_UM, BLOB_AREA, BLOB_EDGE = 23.0, (0.2, 0.7), 0.15
"""Size of what is pasted, the part of a view that it covers, and how soft its edge is."""

LEAST_COLOUR = 20.0
"""Levels between the highest and the lowest channel of a pixel that has a colour."""


@dataclass(frozen=True)
class Views:
    """Views of normal tiles, and where their nuclei were enlarged.

    Attributes:
        x: [N, 3, h, w] in [-1, 1].
        mask: [N, 1, h, w], 1 where nuclei were enlarged, 0 where they were not.
        kinds: of the views.
    """

    x: Tensor
    mask: Tensor
    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Pool:
    """Tiles of which views are made.

    Attributes:
        tiles: [n, 3, h, w].
        hues: [n], see `hue`.
    """

    tiles: Tensor
    hues: Tensor

    def like(self, hues: Float[Tensor, " m"]) -> Float[Tensor, "m 3 h w"]:
        """A tile for each of the hues, drawn from the half of the pool that is nearest to it: of the same stain."""
        distance = (hues[:, None] - self.hues).abs()
        nearest = distance.topk(max(1, (len(self.hues) + 1) // 2), largest=False).indices
        column = torch.randint(nearest.shape[1], (len(hues), 1), device=hues.device)
        return self.tiles[nearest.gather(1, column)[:, 0]]


def make_views(x: Float[Tensor, "n 3 h w"], *, mpp: float, zoom: tuple[float, float]) -> Views:
    """As many views as there are tiles, or about so many, of the kinds and in the proportions of `SHARES`.

    Where no tile is rich in nuclei, or none is pink, those views are left out that would need one.

    Args:
        x: normal tiles in [-1, 1].
        mpp: of the tiles, um/px.
        zoom: range of the magnification of enlarged nuclei.
    """
    n = len(x)
    tissue = x[127.5 * x[:, 1].flatten(1).std(1) > GLASS_SPREAD]
    x = tissue if len(tissue) else x
    rich, pink = tissue_kinds(x, mpp=mpp)
    hues = hue(x)
    pools = {"any": Pool(x, hues), "rich": Pool(x[rich], hues[rich]), "pink": Pool(x[pink], hues[pink])}
    parts = [
        _views_of(kind, pools, count=count, mpp=mpp, zoom=zoom)
        for kind, count in counts(n).items()
        if (rich.any() or kind in ("normal", "glass", "enlarged_pink")) and (pink.any() or kind in ("normal", "glass"))
    ]
    kinds = tuple(kind for part in parts for kind in part.kinds)
    finished = as_scanned(torch.cat([part.x for part in parts]), mpp=mpp)
    return Views(finished, torch.cat([part.mask for part in parts]), kinds)


def counts(n: int) -> dict[Kind, int]:
    """How many of n views are of each kind, at least one each.

    >>> counts(64)
    {'normal': 16, 'glass': 7, 'enlarged_pink': 5, 'spindle': 5, 'enlarged': 13, 'pasted': 11, 'pasted_rich': 7}
    """
    total = sum(SHARES.values())
    return {kind: max(1, round(n * share / total)) for kind, share in SHARES.items()}


def tissue_kinds(x: Float[Tensor, "n 3 h w"], *, mpp: float) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which tiles are rich in nuclei, and which are pink: hardly a nucleus, and neither fat nor glass."""
    height, width = x.shape[2:]
    middle = x[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4]
    sigma = torch.full((len(x),), NUCLEI_SIGMA_UM / mpp, device=x.device)
    red = blurred(optical_density(middle)[:, :1], sigma)
    nuclei = (red > NUCLEI_OD).float().mean((1, 2, 3))
    green = 127.5 * (middle[:, 1].mean((1, 2)) + 1)
    return nuclei > RICH, (nuclei < PINK) & (green < PINK_GREEN)


def hue(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Mean of blue less red, in levels, of a tile's pixels that have a colour: laboratories and scanners differ."""
    levels = 127.5 * (x + 1)
    has_colour = (levels.amax(1) - levels.amin(1) > LEAST_COLOUR).float()
    return ((levels[:, 2] - levels[:, 0]) * has_colour).sum((1, 2)) / has_colour.sum((1, 2)).clamp_min(1)


def magnified(
    x: Float[Tensor, "n 3 h w"], zoom: Float[Tensor, "n 2"], *, sharpness_um: Float[Tensor, " n"], mpp: float,
    offset_um: float = 0.0,
) -> Float[Tensor, "n 3 h w"]:  # fmt: skip
    """Each tile magnified about a point near its centre, turned or mirrored at random, its borders reflected.

    Args:
        x: tiles.
        zoom: magnification along one axis of a random direction, and across it.
        sharpness_um: of the views, see `SHARPNESS_UM`.
        mpp: of the tiles, um/px.
        offset_um: how far from the centre, along each axis, the point may lie.
    """
    n, device = len(x), x.device
    sigma_um = (sharpness_um / zoom.prod(1).sqrt()).square() - (PIXEL_SHARPNESS * mpp) ** 2
    x = blurred(x, sigma_um.clamp_min(0).sqrt() / mpp)
    angle = torch.rand(n, device=device) * math.pi
    axes = _rotation(angle)
    turn = _rotation(torch.randint(4, (n,), device=device) * (math.pi / 2))
    mirror = torch.diag_embed(
        torch.stack([torch.randint(2, (n,), device=device) * 2.0 - 1, torch.ones(n, device=device)], 1)
    )
    linear = axes @ torch.diag_embed(1 / zoom) @ axes.mT @ turn @ mirror
    half_um = torch.tensor([x.shape[3], x.shape[2]], device=device) * (mpp / 2)
    shift = (torch.rand(n, 2, device=device) * 2 - 1) * offset_um / half_um
    grid = F.affine_grid(torch.cat([linear, shift[:, :, None]], 2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(-1, 1)


def soft_blobs(n: int, size: tuple[int, int], *, mpp: float, device: torch.device) -> Float[Tensor, "n 1 h w"]:
    """Masks of random smooth shapes that cover `BLOB_AREA` of the view, with soft edges; 1 inside."""
    cells = [max(2, round(side * mpp / BLOB_UM)) for side in size]
    coarse = torch.randn(n, 1, *cells, device=device)
    field = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    area = uniform(n, *BLOB_AREA, device=device)
    ordered = field.flatten(1).sort(1, descending=True).values
    level = ordered.gather(1, (area * (ordered.shape[1] - 1)).long()[:, None])
    spread = field.flatten(1).std(1, keepdim=True)
    return torch.sigmoid((field.flatten(1) - level) / (BLOB_EDGE * spread)).reshape(n, 1, *size)


def _views_of(kind: Kind, pools: dict[str, Pool], *, count: int, mpp: float, zoom: tuple[float, float]) -> Views:
    """Views of one kind, not yet as a scanner would show them. All parts of a view are of one stain and sharpness."""
    device = pools["any"].hues.device
    sharpness_um = uniform(count, *SHARPNESS_UM, device=device)
    sources = "pink" if kind == "enlarged_pink" else "any" if kind in ("normal", "glass") else "rich"
    first = torch.randint(len(pools[sources].hues), (count,), device=device)
    hues = pools[sources].hues[first]

    def plain(tiles: Tensor) -> Tensor:
        scale = uniform(count, *PLAIN_ZOOM, device=device)[:, None].expand(-1, 2)
        return magnified(tiles, scale, sharpness_um=sharpness_um, mpp=mpp)

    def enlarged(scale: Tensor) -> Tensor:
        tiles = pools[sources].tiles[first]
        nuclei = magnified(tiles, scale, sharpness_um=sharpness_um, mpp=mpp, offset_um=OFFSET_UM)
        weight = uniform(count, *NUCLEI_WEIGHT, device=device)[:, None, None, None]
        around = plain(pools["pink"].like(hues))
        return from_density(weight * optical_density(nuclei) + (1 - weight) * optical_density(around))

    logs = uniform(count, math.log(zoom[0]), math.log(zoom[1]), device=device)
    even = torch.exp(logs)[:, None].expand(-1, 2)
    one_way = torch.stack([uniform(count, *STRETCH, device=device), torch.ones_like(hues)], 1)
    zeros = pools["any"].tiles.new_zeros(count, 1, *pools["any"].tiles.shape[2:])
    kinds = (kind,) * count
    match kind:
        case "normal":
            return Views(plain(pools["any"].tiles[first]), zeros, kinds)
        case "glass":
            levels = uniform(count, *GLASS_LEVELS, device=device)[:, None, None, None]
            return Views((levels / 127.5 - 1).expand(-1, 3, *zeros.shape[2:]), zeros, kinds)
        case "enlarged_pink":
            return Views(enlarged(even), zeros, kinds)
        case "spindle":
            return Views(enlarged(one_way), zeros, kinds)
        case "enlarged":
            return Views(enlarged(even), torch.ones_like(zeros), kinds)
        case "pasted" | "pasted_rich":
            mask = soft_blobs(count, (zeros.shape[2], zeros.shape[3]), mpp=mpp, device=device)
            around = plain(pools["any" if kind == "pasted" else "rich"].like(hues))
            return Views(mask * enlarged(even) + (1 - mask) * around, mask, kinds)


def _rotation(angle: Float[Tensor, " n"]) -> Float[Tensor, "n 2 2"]:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
