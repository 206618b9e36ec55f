"""The weight of a restoration's total variation, lambda: chosen of a grid by what normal tiles change with each.

Chen et al. 2020, https://arxiv.org/abs/2005.00031 ; see `uadray.detectors.restoration`.
"""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.trainee import Average, UnsuitableTilesError


class ChosenWeight(nn.Module):
    """Lambda, and how much normal tiles have changed with each that it is chosen of.

    Attributes of the state:
        changes: [grid], sums of mean |x - x_restored| over tiles.
        count: tiles.
        weight: lambda; NaN until it is chosen.
    """

    changes: Tensor
    count: Tensor
    weight: Tensor

    def __init__(self, grid: Collection[float], weight: float | None) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.register_buffer("changes", torch.zeros(len(self.grid)))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("weight", torch.tensor(torch.nan if weight is None else weight))

    def see(self, changes: Float[Tensor, "n g"], average: Average) -> None:
        """Count what the tiles of all workers have changed, with each lambda."""
        sums = [changes.sum(0), torch.full_like(self.count, len(changes))]
        average(sums)
        self.changes += sums[0]
        self.count += sums[1]

    def choose(self) -> None:
        """Take the lambda of the least change.

        Raises:
            UnsuitableTilesError: no tile was restored, or a change is not finite.
        """
        if not float(self.count) or not bool(self.changes.isfinite().all()):
            raise UnsuitableTilesError(
                f"lambda: {float(self.count):g} normal tiles were restored, their changes are {self.changes.tolist()}; "
                "lower step_size or give tv_weight"
            )
        self.weight.fill_(self.grid[int(self.changes.argmin())])
