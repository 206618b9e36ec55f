"""A batch in parts, so that a step needs the memory of one part."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

Losses = dict[str, Tensor]
Parts = Sequence[tuple[Tensor, float]]


def shares(x: Tensor, parts: int) -> list[tuple[Tensor, float]]:
    """At most so many parts of x [N, ...], each with its share of N.

    Losses are means over a batch: the gradients of the parts' losses, each times its share, add up to that of the whole
    batch, where no layer normalises across a batch.

    >>> import torch
    >>> [(len(part), share) for part, share in shares(torch.zeros(8, 3), 3)]
    [(3, 0.375), (3, 0.375), (2, 0.25)]
    """
    return [(part, len(part) / len(x)) for part in x.chunk(parts)]


def update(
    network: nn.Module,
    optimizer: Optimizer,
    parts: Parts,
    loss_of: Callable[[Tensor], tuple[Tensor, Losses]],
    *,
    average: Callable[[Iterable[Tensor]], None],
) -> Losses:
    """Step on the mean of the losses of a batch in parts; returns the means of what is told of them.

    Args:
        network: whose weights the optimizer moves.
        optimizer: of them.
        parts: see `shares`; the graph of each is gone before the next one's is made.
        loss_of: of a part: what is descended, and losses by name.
        average: of the gradients, over all workers.
    """
    optimizer.zero_grad()
    told = Losses()
    for x, share in parts:
        loss, losses = loss_of(x)
        (loss * share).backward()
        told = {name: told.get(name, 0) + share * value.detach() for name, value in losses.items()}
    average([p.grad for p in network.parameters() if p.grad is not None])
    optimizer.step()
    return told
