"""One step of an optimizer, its gradients averaged over workers: what most trainees do with a loss."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray.detectors.trainee import Average


def new_adam(parameters: list[nn.Parameter], rate: float) -> Adam:
    """Adam; on a GPU one kernel for all parameters."""
    return Adam(parameters, lr=rate, fused=True if parameters[0].is_cuda else None)


def update(optimizer: Optimizer, parameters: Sequence[nn.Parameter], loss: Tensor, average: Average) -> None:
    """A step down a loss. Parameters that it does not reach stay as they are."""
    optimizer.zero_grad()
    loss.backward()
    average([p.grad for p in parameters if p.grad is not None])
    optimizer.step()


def update_along(
    optimizer: Optimizer, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], average: Average
) -> None:
    """A step along gradients that were told already, one for each parameter."""
    average(gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
