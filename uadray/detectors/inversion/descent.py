"""From an image to the latent that draws the closest one: gradient descent in latent space, many tiles at once.

As in AnoGAN (https://arxiv.org/abs/1703.05921, section 2.2): a drawn latent moves down the gradient of a loss between
the image and what the generator draws of it, for a fixed number of steps; the generator stands still. The loss is the
caller's (`Objective`), and so may be the start, the rate over the steps, and what else than the latent is searched for.

Different: a batch of tiles is one search with a loss, a start and a state of Adam (https://arxiv.org/abs/1412.6980,
algorithm 1) for each tile, so that it ends as that tile alone would. A tile whose loss has stood still for `patience`
steps leaves the batch, and the best latent of a tile is kept, not its last. Of `candidates` drawn latents, the same for
all tiles, the one whose picture is closest is the start; `restarts` searches begin at the closest so many.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from uadray import config as configuration
from uadray.detectors.latents import Latent

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam (Kingma and Ba 2015, algorithm 1)."""

LOOK_EVERY = 10
"""Steps between two looks at which tiles are done: a look waits for a GPU, and makes the batch smaller."""

SEED = 0
"""Of the latents that searches start from."""

Variables = tuple[Tensor, ...]
"""What a search changes: latents [n, ...], and beside them what else it looks for, such as noise maps [n, 1, h, w]."""

Targets = tuple[Tensor, ...]
"""What of the images a loss compares with, each with n first."""

Start = Callable[[Tensor, int], Variables]
"""Images [n, 3, h, w] and the number of the restart -> where the search begins; no tile's start knows the others."""

Rate = Callable[[int], float]
"""The number of the step -> the share of the learning rate that it takes."""

Settle = Callable[[Variables], None]
"""Puts right, in place and each tile alone, what a step has changed: noise maps are normalised, latents are clipped."""


class Objective(Protocol):
    """What a search lowers: one value a tile, which depends on no other tile and not on the tile's place."""

    def targets(self, x: Tensor) -> Targets:
        """What of x [n, 3, h, w] the loss needs: computed once for a search, without gradients."""
        ...

    def __call__(self, variables: Variables, targets: Targets, step: int) -> Tensor:
        """[n] losses, differentiable in the variables. The step counts from 0."""
        ...


class LatentDraws(Protocol):
    """What a search needs of a latent space, see `uadray.detectors.inversion.latent_space`."""

    def drawn(self, n: int, *, seed: int) -> Tensor:
        """[n, ...] latents of the generator's distribution, on its device; the same at every call."""
        ...

    def pictures(self, latents: Tensor) -> Tensor:
        """[n, 3, h, w] of latents [n, ...]."""
        ...


class Descent(configuration.Config):
    """How a latent is searched for.

    Attributes:
        steps: of Adam, at the most; 0 leaves a tile at its start.
        learning_rate: of Adam.
        candidates: drawn latents, of which a search starts at the closest; 1 starts at a drawn one (as the papers do).
        restarts: searches of a tile, of which the one with the lowest loss counts.
        patience: steps without improvement after which a tile is done; 0 makes all steps.
        improvement: share by which a loss has to fall to count as improved.
    """

    steps: int = Field(default=500, ge=0, le=100_000)
    learning_rate: float = Field(default=0.05, gt=0, le=10)
    candidates: int = Field(default=1, ge=1, le=16_384)
    restarts: int = Field(default=1, ge=1, le=100)
    patience: int = Field(default=0, ge=0, le=100_000)
    improvement: float = Field(default=0.01, ge=0, lt=1)


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


class DescentMap:
    """The stage `map` of a detector: x -> latents [n, ...], or (latents, ...) where more than these is searched for."""

    def __init__(
        self,
        space: LatentDraws,
        objective: Objective,
        descent: Descent,
        *,
        start: Start | None = None,
        rate: Rate = lambda step: 1.0,
        settle: Settle = lambda variables: None,
        keep: Literal["best", "last"] = "best",
    ) -> None:
        """A search.

        Args:
            space: where latents are drawn; not looked at where `start` is given.
            objective: the loss.
            descent: its sizes.
            start: where searches begin, such as an encoder; None: at drawn latents, see `ClosestDrawn`.
            rate: share of the learning rate by step.
            settle: called after each step.
            keep: the variables of the lowest loss, or of the last step where the loss has noise in it.
        """
        self.objective, self.descent, self.keep = objective, descent, keep
        self.start: Start = start or ClosestDrawn(space, candidates=descent.candidates, kept=descent.restarts)
        self.rate, self.settle = rate, settle

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """What the search has found, within `torch.inference_mode` too."""
        variables = self.search(x).variables
        return variables[0] if len(variables) == 1 else variables

    def search(self, x: Float[Tensor, "n 3 h w"]) -> Found:
        """The same with its losses and steps. Scoring runs in inference mode, which has no gradients: it is left."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            x = x.clone()
            with torch.no_grad():
                targets = self.objective.targets(x)
            found = self._one(x, targets, 0)
            for number in range(1, self.descent.restarts):
                found = better_of(found, self._one(x, targets, number))
        return found

    def _one(self, x: Tensor, targets: Targets, number: int) -> Found:
        with torch.no_grad():
            start = tuple(value.detach().clone() for value in self.start(x, number))
        search = _Search(start, targets, keeps_best=self.keep == "best")
        for step in range(self.descent.steps):
            loss, gradients = search.loss_and_gradients(self.objective, step)
            search.note(loss, step, improvement=self.descent.improvement)
            if self.descent.patience and step % LOOK_EVERY == 0:
                gradients = search.leave(gradients, patience=self.descent.patience)
                if search.is_over:
                    return search.found()
            search.move(gradients, step, learning_rate=self.descent.learning_rate * self.rate(step))
            self.settle(search.variables)
        with torch.no_grad():
            loss = self.objective(search.variables, search.targets, self.descent.steps)
        search.note(loss, self.descent.steps, improvement=self.descent.improvement)
        return search.found()


class ClosestDrawn:
    """Starts at drawn latents, the same for all tiles: for each tile at those whose pictures are closest to it.

    Closeness is the mean |x - G(z)|. One latent a restart and no more are taken as they come.
    """

    def __init__(self, space: LatentDraws, *, candidates: int, kept: int) -> None:
        self._latents = space.drawn(max(candidates, kept), seed=SEED)
        self._pictures = None
        if candidates > 1:
            with torch.no_grad():
                self._pictures = torch.cat([space.pictures(part) for part in self._latents.split(64)]).flatten(1)

    def __call__(self, x: Tensor, number: int) -> Variables:
        """Latents [n, ...] of the start with this number."""
        if self._pictures is None:
            return (self._latents[number].expand(len(x), *self._latents.shape[1:]),)
        distances = torch.cdist(x.flatten(1), self._pictures, p=1)  # [n, candidates]
        return (self._latents[distances.topk(number + 1, largest=False).indices[:, number]],)


class _Search:
    """The tiles of a batch that are still searched for, and what has been found for all."""

    def __init__(self, start: Variables, targets: Targets, *, keeps_best: bool) -> None:
        n, device = len(start[0]), start[0].device
        self.variables, self.targets, self._keeps_best = start, targets, keeps_best
        self._first = tuple(torch.zeros_like(value) for value in start)
        self._second = tuple(torch.zeros_like(value) for value in start)
        self._kept = start
        self._loss = torch.full((n,), torch.finfo(start[0].dtype).max, device=device, dtype=start[0].dtype)
        self._mark, self._marked_at = self._loss, torch.zeros(n, dtype=torch.int64, device=device)
        self._rows, self._steps = torch.arange(n, device=device), 0
        self._all = Found(tuple(value.clone() for value in start), self._loss.clone(), self._marked_at.clone())

    @property
    def is_over(self) -> bool:
        """Whether no tile is left."""
        return len(self._rows) == 0

    def loss_and_gradients(self, objective: Objective, step: int) -> tuple[Tensor, list[Tensor]]:
        """[n] losses, and the gradient of each tile's by its own variables."""
        leaves = tuple(value.detach().requires_grad_() for value in self.variables)
        loss = objective(leaves, self.targets, step)
        return loss.detach(), list(torch.autograd.grad(loss.sum(), leaves))

    def note(self, loss: Tensor, step: int, *, improvement: float) -> None:
        """Keep what is better than before, and when a tile's loss last fell by its share."""
        loss, self._steps = loss.to(self._loss.dtype), step
        is_kept = loss < self._loss if self._keeps_best else torch.ones_like(loss, dtype=torch.bool)
        self._loss = torch.where(is_kept, loss, self._loss)
        pairs = zip(self.variables, self._kept, strict=True)
        self._kept = tuple(torch.where(_like(is_kept, value), value, kept) for value, kept in pairs)
        has_improved = loss < self._mark - improvement * self._mark.abs()
        self._mark = torch.where(has_improved, loss, self._mark)
        self._marked_at = torch.where(has_improved, step, self._marked_at)

    def leave(self, gradients: list[Tensor], *, patience: int) -> list[Tensor]:
        """Take out the tiles whose loss has stood still for so many steps; the gradients of those that stay."""
        stays = self._steps - self._marked_at < patience
        if bool(stays.all()):
            return gradients
        self._write(~stays)
        self.variables, self.targets, self._first, self._second, self._kept = (
            tuple(value[stays] for value in values)
            for values in (self.variables, self.targets, self._first, self._second, self._kept)
        )
        self._loss, self._mark, self._marked_at, self._rows = (
            values[stays] for values in (self._loss, self._mark, self._marked_at, self._rows)
        )
        return [gradient[stays] for gradient in gradients]

    def move(self, gradients: list[Tensor], step: int, *, learning_rate: float) -> None:
        """A step of Adam."""
        rate = learning_rate / (1 - BETA1 ** (step + 1))
        second_share = 1 - BETA2 ** (step + 1)
        for value, gradient, first, second in zip(self.variables, gradients, self._first, self._second, strict=True):
            first.lerp_(gradient, 1 - BETA1)
            second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            value.addcdiv_(first, (second / second_share).sqrt_().add_(EPSILON), value=-rate)

    def found(self) -> Found:
        """Of all tiles; those still searched for as they stand."""
        self._write(torch.ones_like(self._rows, dtype=torch.bool))
        return self._all

    def _write(self, which: Tensor) -> None:
        rows = self._rows[which]
        for found, kept in zip(self._all.variables, self._kept, strict=True):
            found[rows] = kept[which]
        self._all.loss[rows], self._all.steps[rows] = self._loss[which], self._steps


def better_of(a: Found, b: Found) -> Found:
    """For each tile the search of the lower loss, and the steps of both."""
    is_b = b.loss < a.loss
    pairs = zip(a.variables, b.variables, strict=True)
    variables = tuple(torch.where(_like(is_b, of_a), of_b, of_a) for of_a, of_b in pairs)
    return Found(variables, torch.where(is_b, b.loss, a.loss), a.steps + b.steps)


def _like(rows: Tensor, values: Tensor) -> Tensor:
    """[n] as [n, 1, ...] beside values [n, ...]."""
    return rows.view(-1, *(1,) * (values.dim() - 1))
