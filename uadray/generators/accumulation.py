"""One optimizer step on a batch that is taken in parts, for a GPU whose memory holds a part."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

Losses = dict[str, Tensor]


def update(
    network: nn.Module,
    optimizer: Optimizer,
    parts: Sequence[Tensor],
    loss_of: Callable[[Tensor], tuple[Tensor, Losses]],
    *,
    average: Callable[[Iterable[Tensor]], None],
) -> Losses:
    """Step on the mean of the parts' losses, a part counting as often as it has images; returns the means by name.

    Args:
        network: whose weights the optimizer moves.
        optimizer: of them.
        parts: of a batch, [n, ...]; each one's graph is gone before the next is made.
        loss_of: of a part: what is descended, and what is told of it.
        average: of the gradients, over all workers.
    """
    optimizer.zero_grad()
    total, told = sum(map(len, parts)), Losses()
    for part in parts:
        share = len(part) / total
        loss, losses = loss_of(part)
        (loss * share).backward()
        told = {name: told.get(name, 0) + share * value.detach() for name, value in losses.items()}
    average([p.grad for p in network.parameters() if p.grad is not None])
    optimizer.step()
    return told
