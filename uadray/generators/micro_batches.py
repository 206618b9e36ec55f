"""A batch in parts, so that a step needs the memory of one part."""

from torch import Tensor


def shares(x: Tensor, parts: int) -> list[tuple[Tensor, float]]:
    """At most so many parts of x [N, ...], each with its share of N.

    Losses are means over a batch: the gradients of the parts' losses, each times its share, add up to that of the whole
    batch, where no layer normalises across a batch.

    >>> import torch
    >>> [(len(part), share) for part, share in shares(torch.zeros(8, 3), 3)]
    [(3, 0.375), (3, 0.375), (2, 0.25)]
    """
    return [(part, len(part) / len(x)) for part in x.chunk(parts)]
