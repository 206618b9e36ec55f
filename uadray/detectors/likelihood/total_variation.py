"""Total variation of images: how much neighbouring pixels differ, summed.

Rudin, Osher and Fatemi 1992, https://doi.org/10.1016/0167-2789(92)90242-F , in the anisotropic form: absolute
differences along rows and columns, each by itself, without smoothing. Where neighbours are equal it has no derivative,
and the gradient is the subgradient with zero there.
"""

from jaxtyping import Float
from torch import Tensor


def total_variation(x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Sum of |differences| between horizontal and vertical neighbours, over pixels and channels, a value an image."""
    down = (x[:, :, 1:] - x[:, :, :-1]).abs()
    along = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs()
    return down.flatten(1).sum(1) + along.flatten(1).sum(1)
