"""The steps of a search for latents of many tiles at once: a loss, a state of Adam and a best latent for each tile.

Adam: https://arxiv.org/abs/1412.6980 (Kingma and Ba 2015, algorithm 1).

A search makes small differences large: two that differ in the last bit of a gradient are 1e-2 apart in their latents
after 500 steps. Products of matrices round differently for one tile and for many; so the tiles are computed in groups
that are always of one size, filled up where there are fewer. In such a group a tile's numbers are the same to the last
bit at every place and beside all others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam (algorithm 1)."""

Variables = tuple[Tensor, ...]
"""What a search changes: latents [n, ...], and beside them what else it looks for, such as noise maps [n, 1, h, w]."""

Targets = tuple[Tensor, ...]
"""What of the images a loss compares with, each with n first."""


@runtime_checkable
class Objective(Protocol):
    """What a search lowers: one value a tile, which depends on no other tile and not on the tile's place."""

    def targets(self, x: Tensor) -> Targets:
        """What of x [n, 3, h, w] the loss needs: computed once for a search, without gradients."""
        ...

    def __call__(self, variables: Variables, targets: Targets, step: int) -> Tensor:
        """[n] losses, differentiable in the variables. The step counts from 0."""
        ...


@dataclass(frozen=True)
class Found:
    """What a search has found for n tiles.

    Attributes:
        variables: the latents first.
        loss: [n] with them.
        steps: [n] that were made, of all restarts.
    """

    variables: Variables
    loss: Tensor
    steps: Tensor


def in_groups(
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]], tensors: Sequence[Tensor], size: int
) -> Variables:
    """What a function makes of tensors [n, ...], computed in groups of `size` rows, the last one filled up."""
    n = len(tensors[0])
    made = [function([_filled(t[start : start + size], size) for t in tensors]) for start in range(0, n, size)]
    return tuple(torch.cat(parts)[:n] for parts in zip(*made, strict=True))


class Search:
    """The tiles of a batch that are still searched for, and what has been found for all.

    Args:
        start: where the search begins; changed in place.
        targets: of the objective.
        group: tiles that are computed at once.
        keeps_best: keep the variables of the lowest loss, not those of the last step.
    """

    def __init__(self, start: Variables, targets: Targets, *, group: int, keeps_best: bool) -> None:
        n, device, dtype = len(start[0]), start[0].device, start[0].dtype
        self.variables, self._targets, self._group, self._keeps_best = start, targets, group, keeps_best
        self._first = tuple(torch.zeros_like(value) for value in start)
        self._second = tuple(torch.zeros_like(value) for value in start)
        self._kept = tuple(value.clone() for value in start)
        self._loss = self._mark = torch.full((n,), torch.finfo(dtype).max, device=device, dtype=dtype)
        self._marked_at = torch.zeros(n, dtype=torch.int64, device=device)
        self._is_done = torch.zeros(n, dtype=torch.bool, device=device)
        self._steps = torch.zeros_like(self._marked_at)
        self._rows = torch.arange(n, device=device)
        self._all = Found(tuple(value.clone() for value in start), self._loss.clone(), self._steps.clone())

    @property
    def is_over(self) -> bool:
        """Whether no tile is left."""
        return len(self._rows) == 0

    def loss_and_gradients(self, objective: Objective, step: int) -> tuple[Tensor, Variables]:
        """[n] losses, and the gradient of each tile's by its own variables."""
        many = len(self.variables)

        def of_group(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            leaves = tuple(value.detach().requires_grad_() for value in tensors[:many])
            loss = objective(leaves, tuple(tensors[many:]), step)
            return loss.detach().to(leaves[0].dtype), *torch.autograd.grad(loss.sum(), leaves)

        loss, *gradients = in_groups(of_group, (*self.variables, *self._targets), self._group)
        return loss, tuple(gradients)

    def last_loss(self, objective: Objective, step: int) -> Tensor:
        """[n] losses, where no gradient is needed any more."""
        many = len(self.variables)

        def of_group(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            return (objective(tuple(tensors[:many]), tuple(tensors[many:]), step).to(tensors[0].dtype),)

        with torch.no_grad():
            return in_groups(of_group, (*self.variables, *self._targets), self._group)[0]

    def note(self, loss: Tensor, step: int, *, patience: int, improvement: float) -> None:
        """Keep what is better than before; a tile is done once its loss has not fallen by its share for `patience`."""
        is_kept = ~self._is_done
        self._steps = torch.where(is_kept, step, self._steps)
        if self._keeps_best:
            is_kept = is_kept & (loss < self._loss)
        self._loss = torch.where(is_kept, loss, self._loss)
        pairs = zip(self.variables, self._kept, strict=True)
        self._kept = tuple(torch.where(_beside(is_kept, value), value, kept) for value, kept in pairs)
        has_improved = loss < self._mark - improvement * self._mark.abs()
        self._mark = torch.where(has_improved, loss, self._mark)
        self._marked_at = torch.where(has_improved, step, self._marked_at)
        if patience:
            self._is_done = self._is_done | (step - self._marked_at >= patience)

    def leave(self, gradients: Variables) -> Variables:
        """Take out the tiles that are done; the gradients of the others. Waits for a GPU."""
        stays = ~self._is_done
        if bool(stays.all()):
            return gradients
        self._write(self._is_done)
        self.variables, self._targets, self._first, self._second, self._kept = (
            tuple(value[stays] for value in values)
            for values in (self.variables, self._targets, self._first, self._second, self._kept)
        )
        self._loss, self._mark, self._marked_at, self._steps, self._rows, self._is_done = (
            values[stays]
            for values in (self._loss, self._mark, self._marked_at, self._steps, self._rows, self._is_done)
        )
        return tuple(gradient[stays] for gradient in gradients)

    def move(self, gradients: Variables, step: int, *, learning_rate: float) -> None:
        """A step of Adam."""
        rate = learning_rate / (1 - BETA1 ** (step + 1))
        second_share = 1 - BETA2 ** (step + 1)
        for value, gradient, first, second in zip(self.variables, gradients, self._first, self._second, strict=True):
            first.lerp_(gradient, 1 - BETA1)
            second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            value.addcdiv_(first, (second / second_share).sqrt_().add_(EPSILON), value=-rate)

    def found(self) -> Found:
        """Of all tiles; those still searched for as they stand."""
        self._write(torch.ones_like(self._is_done))
        return self._all

    def _write(self, which: Tensor) -> None:
        rows = self._rows[which]
        for found, kept in zip(self._all.variables, self._kept, strict=True):
            found[rows] = kept[which]
        self._all.loss[rows], self._all.steps[rows] = self._loss[which], self._steps[which]


def better_of(a: Found, b: Found) -> Found:
    """For each tile the search of the lower loss, and the steps of both."""
    is_b = b.loss < a.loss
    pairs = zip(a.variables, b.variables, strict=True)
    variables = tuple(torch.where(_beside(is_b, of_a), of_b, of_a) for of_a, of_b in pairs)
    return Found(variables, torch.where(is_b, b.loss, a.loss), a.steps + b.steps)


def _filled(rows: Tensor, size: int) -> Tensor:
    """Rows [n, ...] with the last one repeated: [size, ...]."""
    missing = size - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def _beside(rows: Tensor, values: Tensor) -> Tensor:
    """[n] as [n, 1, ...] beside values [n, ...]."""
    return rows.view(-1, *(1,) * (values.dim() - 1))
