"""Perceptual path length: how much a picture changes as its latent moves a little. Karras et al. 2019, section 4.1.

https://arxiv.org/abs/1812.04948: the expected LPIPS distance of two pictures whose latents are `EPSILON` of the way
between two random ones apart, over `EPSILON` squared. In Z the way is a great circle, in W a straight line. Lengths
below the 1 % and above the 99 % quantile are left out, as in the authors' measurements; LPIPS is on VGG16, and pictures
larger than 256 px are reduced to that. Different: pictures are not cropped about a face.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from uadray.evaluation.feature_spaces import all_bits
from uadray.generators.catalog import GeneratorConfig, file_of
from uadray.generators.pictures import slerp
from uadray.networks.outline import Networks

EPSILON = 1e-4
CUT = 0.01
"""Share of the shortest, and of the longest steps, that is left out."""

LARGEST_PX = 256
DRAWN_AT_ONCE = 16

Sampling = Literal["full", "end"]
"""Where on the way a step is: anywhere, or at its beginning."""

Distance = Callable[[Tensor, Tensor], Tensor]


def path_length(
    config: GeneratorConfig, networks: Networks, distance: Distance, n: int, *, seed: int, device: str = "cpu",
    sampling: Sampling = "full", tick: Callable[[int], None] | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Mean length of n steps without outliers, and its standard error.

    Args:
        config: of the generator.
        networks: of it, on the device.
        distance: LPIPS, of x and y [n, 3, h, w] in [-1, 1].
        n: steps, two at the least.
        seed: of latents and places.
        device: to draw on.
        sampling: where steps are; in W the paper has both.
        tick: told of the number of steps that are done.
    """
    parts = []
    with all_bits():  # pictures this near to each other differ in the last bits alone
        for part in _steps(config, networks, distance, n, seed, device, sampling):
            parts.append(part.double().cpu())
            if tick is not None:
                tick(len(part))
    kept = without_outliers(torch.cat(parts).numpy())
    return float(kept.mean()), float(kept.std(ddof=1) / np.sqrt(len(kept)))


def without_outliers(lengths: npt.NDArray[np.float64], *, cut: float = CUT) -> npt.NDArray[np.float64]:
    """The lengths between the quantiles `cut` and 1 - `cut`, each of which is one of the lengths.

    >>> without_outliers(np.array([5.0, 1.0, 2.0, 3.0, 900.0]), cut=0.25).tolist()
    [5.0, 2.0, 3.0]
    """
    low = np.quantile(lengths, cut, method="lower")
    high = np.quantile(lengths, 1 - cut, method="higher")
    kept: npt.NDArray[np.float64] = lengths[(lengths >= low) & (lengths <= high)]
    return kept


@torch.no_grad()
def _steps(
    config: GeneratorConfig, networks: Networks, distance: Distance, n: int, seed: int, device: str, sampling: Sampling
) -> Iterator[Float[Tensor, " b"]]:
    """Lengths, some at a time."""
    file, rng = file_of(config), torch.Generator().manual_seed(seed)
    for start in range(0, n, DRAWN_AT_ONCE):
        b = min(DRAWN_AT_ONCE, n - start)
        z = file.latents(config, 2 * b, rng=rng)
        t = torch.rand(b, generator=rng) if sampling == "full" else torch.zeros(b)
        ends = file.styles(config, networks, z.to(device))
        x, y = (file.pictures(config, networks, at) for at in pair_on_the_way(ends[:b], ends[b:], t.to(device)))
        yield distance(reduced(x), reduced(y)) / EPSILON**2


def pair_on_the_way(
    a: Float[Tensor, "n ..."], b: Float[Tensor, "n ..."], t: Float[Tensor, " n"]
) -> tuple[Tensor, Tensor]:
    """Latents at t and at t + `EPSILON` of the way from a to b: on great circles in Z [n, d], straight in W."""
    way = slerp if a.ndim == 2 else torch.lerp
    at = t.view(-1, *[1] * (a.ndim - 1))
    return way(a, b, at), way(a, b, at + EPSILON)


def reduced(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h2 w2"]:
    """The pictures at 256 px at the most: means of squares of pixels."""
    return F.avg_pool2d(x, x.shape[-1] // LARGEST_PX) if x.shape[-1] > LARGEST_PX else x
