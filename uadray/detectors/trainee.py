"""What every detector in training has in common: plain torch, no Ray, runs on a CPU in a test.

A trainee owns its networks and optimizers. `step(x, progress)` does one step of the phase that `progress` (0 to 1
through the training) is in. Several workers average their gradients after each backward pass (`average`): two networks
and a double backward make the hooks of DistributedDataParallel hard to reason about.

What is fitted without gradients (a covariance, a memory bank, a forest) is a buffer of a network: an `nn.Module` that
registers tensors whose shapes follow from the configuration. Buffers go into checkpoints and bundles as weights do,
and a bundle's file is compared with these shapes, and they with the limit of `uadray.networks.outline`, before memory
is taken for them. So the configuration bounds each size (`Field(le=...)`), and an array that may stay partly empty has
a buffer that counts its rows.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from torch import Tensor
from torch.optim import Optimizer

from uadray.errors import WorkError
from uadray.networks.outline import Networks

Average = Callable[[Iterable[Tensor]], None]
"""Replaces tensors, in place, by their means over all workers: gradients, or sums that a fit has made. All workers call
it together, with tensors of the same shapes and of one type."""


Losses = Mapping[str, float | Tensor]
"""By name; tensors of one value each, without gradients, where a GPU need not be waited for within the step."""


def alone(tensors: Iterable[Tensor]) -> None:
    """The `Average` of a single worker: nothing to do."""


class UnsuitableTilesError(WorkError):
    """The tiles cannot teach this detector: trying again would end in the same place. All workers raise it together."""


class Trainee(Protocol):
    """A detector in training, or a generator, or a classifier.

    Attributes:
        networks: by name.
        optimizers: by name; none where nothing is learned by gradients.
        counts: what a checkpoint has to keep besides: what was counted since the first step.
        phases: names of the phases of a training, in their order: ("gan", "encoder"), or ("see the tiles once",).
    """

    networks: Networks
    optimizers: dict[str, Optimizer]
    counts: dict[str, int]
    phases: tuple[str, ...]

    def phase(self, progress: float) -> str:
        """Which of `phases` a step at `progress` belongs to; people see it beside the losses."""
        ...

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration to lower where the losses of this phase diverge; "" where there is none."""
        ...

    def prepare(self, x: Tensor) -> None:
        """Look at some hundred normal tiles [N, 3, h, w] before the first step, on every worker at others."""
        ...

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step on x [N, 3, h, w] in [-1, 1]; the losses by name."""
        ...

    def finish(self) -> None:
        """Fit what is fitted once: a coreset, a forest. After the last step, on every worker, before its checkpoint."""
        ...

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """x_hat as it stands, for people to look at; None where the detector makes no picture."""
        ...
