"""Images with squares painted over, which a context encoder learns to fill in.

Zimmerer et al. 2019, https://arxiv.org/abs/1812.05941 , after Pathak et al. 2016, https://arxiv.org/abs/1604.07379
(section 3.2, random blocks). As in the first author's code for the MOOD challenge: squares of random number, size and
place, each of one random grey level; there none to two a tile with sides up to half of the tile's, here one to
`most_squares`, so that no tile of the context encoder goes unmasked.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def masked(x: Float[Tensor, "n 3 h w"], *, most_squares: int, largest_share: float) -> Float[Tensor, "n 3 h w"]:
    """The images with squares of other grey levels, each image with its own.

    Args:
        x: in [-1, 1].
        most_squares: each image has 1 to so many; a later one may lie over an earlier one.
        largest_share: of the image's side, that a square's side has at the most; it has a pixel at the least.
    """
    n, _, height, width = x.shape
    count = torch.randint(1, most_squares + 1, (n,), device=x.device)
    largest = max(1, int(largest_share * min(height, width)))
    for number in range(most_squares):
        side = torch.randint(1, largest + 1, (n,), device=x.device)
        rows, columns = _span(side, height), _span(side, width)  # [n, h], [n, w]
        painted = rows[:, :, None] & columns[:, None, :] & (number < count)[:, None, None]
        level = 2 * torch.rand(n, 1, 1, 1, device=x.device) - 1
        x = torch.where(painted[:, None], level.to(x.dtype), x)
    return x


def _span(side: Tensor, length: int) -> Tensor:
    """[n, length] Whether a place is within `side` places that begin somewhere."""
    start = (torch.rand(len(side), device=side.device) * (length - side + 1)).floor()[:, None]
    places = torch.arange(length, device=side.device)
    return (places >= start) & (places < start + side[:, None])
