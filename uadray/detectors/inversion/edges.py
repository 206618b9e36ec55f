"""Edges of a picture by Canny's detector, batched and on the device, and how far two pictures' edges differ.

Canny 1986, "A Computational Approach to Edge Detection", https://doi.org/10.1109/TPAMI.1986.4767851: Gaussian
smoothing, gradient, suppression of what is no maximum along the gradient, two thresholds joined by hysteresis. That a
query and its closest normal picture are compared by Canny's edges is from s2-AnoGAN (Pocevičiūtė, Eilertsen and
Lundström 2021, https://arxiv.org/abs/2103.08945), whose full text could not be read here: its thresholds and its
distance are not known to us.

Different: gradients are Sobel's and directions are rounded to four, as in OpenCV; what is compared are edges smoothed
by a Gaussian, so that an edge which lies a pixel beside its counterpart counts for a part of one that is missing.

An edge map is not continuous in the picture: rounding of the last bit may move a pixel across a threshold. All of it is
float32, under autocast too.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

LUMINANCE = (0.299, 0.587, 0.114)
"""Red, green and blue (ITU-R BT.601), as OpenCV has it."""

SMOOTHING_PX = 1.0
"""Deviation of the Gaussian before the gradient: nuclei of 10x slides are 6 to 12 px wide."""

LOW, HIGH = 0.02, 0.05
"""Thresholds of the gradient's length, in luminance (0 to 1) per pixel."""

SLACK_PX = 1.0
"""Deviation of the Gaussian that smooths edge maps before they are compared."""

_TAN_22 = 0.41421356
_TAN_67 = 2.41421356
_GROWTHS_A_LOOK = 8
"""Pixels that hysteresis goes on between two looks whether it is done: each look waits for the device."""


def luminance(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
    """Of pictures in [-1, 1]: 0 to 1, in float32."""
    weights = torch.tensor(LUMINANCE, device=x.device)
    return ((x.float() + 1) / 2).mul(weights.view(1, 3, 1, 1)).sum(1)


def smoothed(maps: Float[Tensor, "n h w"], sigma: float) -> Float[Tensor, "n h w"]:
    """By a Gaussian of `sigma` pixels, cut at three deviations; the border is repeated outwards."""
    reach = max(1, round(3 * sigma))
    place = torch.arange(-reach, reach + 1, device=maps.device, dtype=torch.float32)
    kernel = torch.exp(-(place**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(_bordered(maps, 0, reach), kernel.view(1, 1, -1, 1))
    return F.conv2d(_bordered(rows.squeeze(1), reach, 0), kernel.view(1, 1, 1, -1)).squeeze(1)


def gradients(maps: Float[Tensor, "n h w"]) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Sobel's derivatives along x and y, a pixel; the border is repeated outwards."""
    smooth = torch.tensor([1.0, 2.0, 1.0], device=maps.device) / 4
    slope = torch.tensor([-1.0, 0.0, 1.0], device=maps.device) / 2
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])
    along_x, along_y = F.conv2d(_bordered(maps, 1, 1), kernels[:, None]).unbind(1)
    return along_x, along_y


def edges(
    along_x: Float[Tensor, "n h w"], along_y: Float[Tensor, "n h w"], *, low: float, high: float
) -> Bool[Tensor, "n h w"]:
    """Thin edges of a gradient: maxima above `low` along it that are joined to one above `high`."""
    strength = along_x.square() + along_y.square()
    is_maximum = _maxima(strength, along_x, along_y)
    return _joined(is_maximum & (strength > high**2), is_maximum & (strength > low**2))


def canny(
    x: Float[Tensor, "n 3 h w"], *, sigma: float = SMOOTHING_PX, low: float = LOW, high: float = HIGH
) -> Bool[Tensor, "n h w"]:
    """Edges of pictures in [-1, 1]; each picture's do not depend on the others'.

    Args:
        x: the pictures.
        sigma: of the Gaussian, in pixels.
        low: luminance per pixel below which nothing is an edge.
        high: luminance per pixel above which a maximum of the gradient is an edge by itself.
    """
    with torch.autocast(x.device.type, enabled=False):
        return edges(*gradients(smoothed(luminance(x), sigma)), low=low, high=high)


def edge_difference(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
    """Absolute difference of the smoothed edge maps of two pictures in [-1, 1]."""
    with torch.autocast(x.device.type, enabled=False):
        return (smoothed(canny(x).float(), SLACK_PX) - smoothed(canny(x_hat).float(), SLACK_PX)).abs()


def _bordered(maps: Tensor, columns: int, rows: int) -> Tensor:
    """[N, h, w] -> [N, 1, h + 2 rows, w + 2 columns]."""
    return F.pad(maps[:, None], (columns, columns, rows, rows), mode="replicate")


def _maxima(strength: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Where the gradient is longer than at the two neighbours along it; outside the picture it is 0.

    Of two equal neighbours on a row or column the first is kept.
    """
    h, w = strength.shape[1:]
    padded = F.pad(strength, (1, 1, 1, 1))

    def beside(down: int, right: int) -> Tensor:
        return padded[:, 1 + down : 1 + down + h, 1 + right : 1 + right + w]

    steep = along_y.abs() / along_x.abs().clamp_min(torch.finfo(torch.float32).tiny)
    across = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    upright = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    falling = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    diagonal = torch.where((along_x < 0) == (along_y < 0), falling, rising)
    return torch.where(steep < _TAN_22, across, torch.where(steep > _TAN_67, upright, diagonal))


def _joined(strong: Tensor, weak: Tensor) -> Tensor:
    """The weak pixels [N, h, w] that strong ones reach over weak ones, by eight neighbours."""
    reached = strong
    while True:
        before = reached
        for _ in range(_GROWTHS_A_LOOK):
            grown = F.max_pool2d(reached.float()[:, None], 3, stride=1, padding=1).squeeze(1) > 0
            reached = grown & weak
        if torch.equal(reached, before):
            return reached
