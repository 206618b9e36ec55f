"""Adaptive discriminator augmentation. https://arxiv.org/abs/2006.06676 (Karras et al. 2020b, section 2-3, app. B).

Every picture that the discriminator sees, real or generated, is transformed with probability p, which rises where the
discriminator has begun to know the training pictures by heart and falls where it has not. As in the paper: the
transforms of its groups "blit", "geometry" and "colour", their order, distributions and probabilities; r_t, the mean
sign of the scores of real pictures, is held at a target. Different:

- "geometry" samples at 2 x 2 points a pixel by cubic interpolation and takes their mean, where the paper samples
  bilinearly between a low-pass filter made of a wavelet (sym6) up and down by two: a little more of what is finer than
  two pixels is lost here, and scaling down to less than half would alias.
- Pictures are mirrored at their edges, as often as it takes; "geometry" mirrors at the edge of the last pixel, the
  paper at its centre.
- "blit" moves whole pixels, exactly, before "geometry" and apart from it. A picture for which no transform of a group
  was drawn is left as it was, bit by bit.
- p is held at 1 from above too.
- The groups of image filters, noise and cutouts are left out: the paper found them of no use.

Nothing here waits for a GPU, and nothing is copied to it, so that a step can be captured.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from uadray import config as configuration

Group = Literal["blit", "geometry", "colour"]

POINTS = 2
"""Samples along a pixel's side."""

_BICUBIC, _REFLECTION = 2, 2
"""As torch numbers them in `grid_sampler_2d_backward`."""


class AdaConfig(configuration.Config):
    """Adaptive discriminator augmentation.

    Attributes:
        target: of r_t, the mean sign of the discriminator's output for real pictures (paper: 0.6).
        images: within how many images shown p may go from 0 to 1 (paper: 500,000).
        interval: steps between two changes of p (paper: 4).
        groups: of transforms (paper: these three, its "bgc").
    """

    target: float = Field(default=0.6, gt=-1, lt=1)
    images: int = Field(default=500_000, ge=1, le=1_000_000_000)
    interval: int = Field(default=4, ge=1, le=10_000)
    groups: tuple[Group, ...] = Field(default=("blit", "geometry", "colour"), min_length=1, max_length=3)


class Augmentation(nn.Module):
    """The transforms, p, and what it follows. All of it is in buffers, so that a checkpoint has it.

    Attributes:
        p: probability of each transform.
        r_t: mean sign of the scores between the last two changes of p; 0 before the first.
        signs: sum of the signs since then, and of how many scores.
    """

    p: Tensor
    r_t: Tensor
    signs: Tensor

    def __init__(self, config: AdaConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("r_t", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(2))

    def forward(self, x: Float[Tensor, "n 3 h h"]) -> Float[Tensor, "n 3 h h"]:
        """X in [-1, 1], each picture transformed in its own way, in float32; differentiable twice."""
        x = x.float()
        if "blit" in self.config.groups:
            x = blitted(x, *draw_blit(x, self.p))
        if "geometry" in self.config.groups:
            matrix, drawn = draw_geometry(x, self.p)
            x = torch.where(drawn[:, None, None, None], warped(x, matrix), x)
        if "colour" in self.config.groups:
            x = coloured(x, draw_colour(x, self.p))
        return x

    @torch.no_grad()
    def observe(self, real_scores: Float[Tensor, "n ..."]) -> None:
        """Take in the discriminator's output for real pictures, transformed as they are shown to it."""
        signs = real_scores.detach().float().sign()
        self.signs += torch.stack([signs.sum(), torch.ones_like(signs).sum()])

    @torch.no_grad()
    def adapt(self, images: int, *, average: Callable[[Iterable[Tensor]], None] = lambda tensors: None) -> None:
        """Move p towards where r_t is at its target; for every `interval`-th step.

        Args:
            images: shown by all workers together since the last call.
            average: means over workers, see `uadray.detectors.trainee.Average`; they come to the same p.
        """
        average([self.signs])
        is_any = self.signs[1] > 0
        self.r_t.copy_(torch.where(is_any, self.signs[0] / self.signs[1], self.config.target))
        self.p.add_((self.r_t - self.config.target).sign(), alpha=images / self.config.images).clamp_(0, 1)
        self.signs.zero_()


def draw_blit(
    x: Float[Tensor, "n 3 h h"], p: Float[Tensor, ""]
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, "n 2"]]:
    """Mirrored or not, quarter turns, and pixels down and to the right (an eighth of the side at the most)."""
    n, device, most = len(x), x.device, 0.125 * x.shape[-1]
    flips = torch.randint(2, (n,), device=device) * _chosen(n, p)
    turns = torch.randint(4, (n,), device=device) * _chosen(n, p)
    shifts = (torch.rand(n, 2, device=device) * 2 - 1).mul(most).round().long() * _chosen(n, p)[:, None]
    return flips, turns, shifts


def draw_geometry(
    x: Float[Tensor, "n 3 h h"], p: Float[Tensor, ""]
) -> tuple[Float[Tensor, "n 3 3"], Bool[Tensor, " n"]]:
    """Where to look in x for what is shown, in units of half the side from the centre; and whether x is to change.

    It is the inverse of the transform: the factors are inverted, and their order turned round.
    """
    n = len(x)
    p_rot = 1 - (1 - p).sqrt()  # of two rotations, one is done with probability p
    drawn = [_chosen(n, q) for q in (p, p_rot, p, p_rot, p)]
    is_scaled, is_turned, is_stretched, is_turned_after, is_moved = drawn
    scale = _log_normal(is_scaled, 0.2)
    stretch = _log_normal(is_stretched, 0.2)
    angles = [_angle(mask) for mask in (is_turned, is_turned_after)]
    moves = 2 * 0.125 * torch.randn(n, 2, device=x.device) * is_moved[:, None]
    matrix = _product(
        _scaling(1 / scale, 1 / scale),
        _rotation(-angles[0]),
        _scaling(1 / stretch, stretch),
        _rotation(-angles[1]),
        _translation(-moves),
    )
    return matrix, torch.stack(drawn).any(0)


def draw_colour(x: Float[Tensor, "n 3 h h"], p: Float[Tensor, ""]) -> Float[Tensor, "n 4 4"]:
    """What takes (r, g, b, 1) to its new colour."""
    n = len(x)
    eye = torch.eye(3, device=x.device)
    grey = torch.full(
        (3, 3), 1 / 3, device=x.device
    )  # v v^T: the projection on the axis of luma, v = (1, 1, 1) / sqrt 3
    brightness = 0.2 * torch.randn(n, device=x.device) * _chosen(n, p)
    contrast = _log_normal(_chosen(n, p), 0.5)
    flip = torch.randint(2, (n,), device=x.device) * _chosen(n, p)
    hue = _angle(_chosen(n, p))
    saturation = _log_normal(_chosen(n, p), 1.0)
    linear = _product(
        grey + (eye - grey) * saturation[:, None, None],
        _hue_rotation(hue),
        eye - 2 * grey * flip[:, None, None],
        eye * contrast[:, None, None],
    )
    offset = (linear * brightness[:, None, None]).sum(2, keepdim=True)  # brightness comes first
    return F.pad(torch.cat([linear, offset], 2), (0, 0, 0, 1)) + F.pad(torch.ones_like(offset[:, :1]), (3, 0, 3, 0))


def blitted(
    x: Float[Tensor, "n 3 h h"], flips: Int[Tensor, " n"], turns: Int[Tensor, " n"], shifts: Int[Tensor, "n 2"]
) -> Float[Tensor, "n 3 h h"]:
    """Pictures mirrored left to right, then turned by quarters against the clock, then moved by whole pixels."""
    side = x.shape[-1]
    places = torch.arange(side, device=x.device)
    down, right = (2 * _mirrored(places - shift[:, None], side) - (side - 1) for shift in shifts.unbind(1))
    down, right = down[:, :, None], right[:, None, :]  # twice the distance from the centre: odd where the side is even
    cos, sin = ((turns == a).long() - (turns == b).long() for a, b in ((0, 2), (1, 3)))
    cos, sin, sign = cos[:, None, None], sin[:, None, None], (1 - 2 * flips)[:, None, None]
    rows, columns = cos * down + sin * right, sign * (cos * right - sin * down)
    index = (rows + side - 1) // 2 * side + (columns + side - 1) // 2
    return x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def warped(x: Float[Tensor, "n 3 h h"], matrix: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 h h"]:
    """Pictures as seen through a matrix, see `draw_geometry`."""
    n, side = x.shape[0], x.shape[-1] * POINTS
    along = (torch.arange(side, device=x.device) + 0.5) * (2 / side) - 1  # of output samples
    places = torch.stack([along[None, :].expand(side, -1), along[:, None].expand(-1, side)], 2)
    linear, offset = matrix[:, None, None, :2, :2], matrix[:, None, None, :2, 2]
    grid = (linear * places[None, :, :, None, :]).sum(4) + offset  # [n, side, side, 2], no matrix product: in float32
    return F.avg_pool2d(_Sampled.apply(x, grid), POINTS).view(n, *x.shape[1:])


def coloured(x: Float[Tensor, "n 3 h h"], matrix: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 3 h h"]:
    """Pictures through a matrix of colours, see `draw_colour`."""
    columns = matrix[:, :3, :, None, None].unbind(2)
    channels = x.split(1, 1)
    return sum((channel * column for channel, column in zip(channels, columns, strict=False)), columns[3])


class _Sampled(torch.autograd.Function):
    """Samples of x at a grid. Torch's own cannot be differentiated twice; this is linear in x, so it can."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        """[n, c, h, w] at [n, h2, w2, 2] -> [n, c, h2, w2]."""
        ctx.save_for_backward(grid)
        ctx.side = x.shape[-1]
        return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The adjoint; the grid has no gradient."""
        (grid,) = ctx.saved_tensors
        return _Spread.apply(gradients[0], grid, ctx.side), None


class _Spread(torch.autograd.Function):
    """The adjoint of `_Sampled`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, grid: Tensor, side: int) -> Tensor:
        """[n, c, h2, w2] spread from [n, h2, w2, 2] -> [n, c, side, side]."""
        ctx.save_for_backward(grid)
        blank = y.new_empty(*y.shape[:2], side, side)  # its shape alone is looked at
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            y.contiguous(), blank, grid, _BICUBIC, _REFLECTION, False, [True, False]
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint of the adjoint."""
        (grid,) = ctx.saved_tensors
        return _Sampled.apply(gradients[0], grid), None, None


def _chosen(n: int, p: Tensor) -> Tensor:
    """[n], true with probability p."""
    return torch.rand(n, device=p.device) < p


def _log_normal(chosen: Tensor, octaves: float) -> Tensor:
    """[n], 2 to a normal number of so much deviation; 1 where not chosen."""
    return torch.exp2(octaves * torch.randn(len(chosen), device=chosen.device) * chosen)


def _angle(chosen: Tensor) -> Tensor:
    """[n], any angle; 0 where not chosen."""
    return (torch.rand(len(chosen), device=chosen.device) * 2 - 1) * math.pi * chosen


def _mirrored(places: Tensor, side: int) -> Tensor:
    """Places on a line of so many pixels that is mirrored at the centres of its ends."""
    within = places.remainder(2 * (side - 1))
    return torch.minimum(within, 2 * (side - 1) - within)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """[n, k, k] of entries [n]."""
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def _scaling(across: Tensor, down: Tensor) -> Tensor:
    zero, one = torch.zeros_like(across), torch.ones_like(across)
    return _matrix([[across, zero, zero], [zero, down, zero], [zero, zero, one]])


def _rotation(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])


def _translation(moves: Tensor) -> Tensor:
    across, down = moves.unbind(1)
    zero, one = torch.zeros_like(across), torch.ones_like(across)
    return _matrix([[one, zero, across], [zero, one, down], [zero, zero, one]])


def _hue_rotation(angle: Tensor) -> Tensor:
    """[n, 3, 3] about the axis of luma (Rodrigues' formula)."""
    cos, sin = angle.cos(), angle.sin()
    rest, side = (1 - cos) / 3, sin / math.sqrt(3)
    a, b, c = cos + rest, rest - side, rest + side
    return _matrix([[a, b, c], [c, a, b], [b, c, a]])


def _product(*matrices: Tensor) -> Tensor:
    """Of matrices [n, k, k], in float32 whatever products of matrices are made in."""
    total = matrices[0]
    for matrix in matrices[1:]:
        total = (total[:, :, :, None] * matrix[:, None]).sum(2)
    return total
