"""From an image to the latent that draws the closest one: gradient descent in latent space, many tiles at once.

As in AnoGAN (https://arxiv.org/abs/1703.05921, section 2.2): a drawn latent moves down the gradient of a loss between
the image and what the generator draws of it, for a fixed number of steps; the generator stands still. The loss is the
caller's (`Objective`), and so may be the start, the rate over the steps, and what else than the latent is searched for.

Different: a batch of tiles is one search with a loss, a start and a state of Adam for each tile, so that it ends as
that tile alone would, see `uadray.detectors.inversion.search`. A tile whose loss has stood still for `patience` steps
leaves the batch, and the best latent of a tile is kept, not its last. Of `candidates` drawn latents, the same for all
tiles, the one whose picture is closest is the start; `restarts` searches begin at the closest so many.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from uadray import config as configuration
from uadray.detectors.detector import FULL_BATCH_PX
from uadray.detectors.inversion.interruption import between_steps
from uadray.detectors.inversion.search import Found, Objective, Search, Targets, Variables, better_of, in_groups
from uadray.detectors.latents import Latent

GROUP, GPU_GROUP = 16, 64
"""Tiles that are computed at once, always so many: a single one takes as long as a group."""

LOOK_EVERY = 10
"""Steps between two looks at which tiles are done: a look waits for a GPU. What is found does not depend on it."""

SEED = 0
"""Of the latents that searches start from."""

Start = Callable[[Tensor, int], Variables]
"""Images [n, 3, h, w] and the number of the restart -> where the search begins; no tile's start knows the others."""

Rate = Callable[[int], float]
"""The number of the step -> the share of the learning rate that it takes."""

Settle = Callable[[Variables], None]
"""Puts right, in place and each tile alone, what a step has changed: noise maps are normalised, latents are clipped."""


@runtime_checkable
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
        group: tiles that are computed at once, always so many (see `uadray.detectors.inversion.search`); None: see
            `default_group`. On a CPU a small network takes a quarter less time a tile in groups of 64 than of 16, but a
            single tile two to three times as long.
    """

    steps: int = Field(default=500, ge=0, le=100_000)
    learning_rate: float = Field(default=0.1, gt=0, le=10)
    candidates: int = Field(default=1, ge=1, le=16_384)
    restarts: int = Field(default=1, ge=1, le=100)
    patience: int = Field(default=0, ge=0, le=100_000)
    improvement: float = Field(default=0.01, ge=0, lt=1)
    group: int | None = Field(default=None, ge=1, le=4096)


class DescentMap:
    """The stage `map` of a detector: x -> latents [n, ...], or (latents, ...) where more than these is searched for.

    Args:
        space: where latents are drawn; not looked at where `start` is given.
        objective: the loss.
        descent: the sizes of the search.
        start: where searches begin, such as an encoder; None: at drawn latents, see `ClosestDrawn`.
        rate: share of the learning rate by step.
        settle: called after each step.
        keep: the variables of the lowest loss, or of the last step where the loss has noise in it.
    """

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
        self.objective, self.descent, self.keep = objective, descent, keep
        self.start: Start = start or ClosestDrawn(space, candidates=descent.candidates, restarts=descent.restarts)
        self.rate, self.settle = rate, settle

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """What the search has found, within `torch.inference_mode` too."""
        variables = self.search(x).variables
        return variables[0] if len(variables) == 1 else variables

    def search(self, x: Float[Tensor, "n 3 h w"]) -> Found:
        """The same with its losses and steps.

        Inference mode, in which a detector scores, is left for it: there are no gradients. So is autocast, since a
        search has to end in training as in scoring; an objective may lower its own precision.
        """
        group = self.descent.group or default_group(x.shape[-1], x.device.type)
        as_it_is = torch.autocast(x.device.type, enabled=False)
        with torch.inference_mode(mode=False), torch.enable_grad(), as_it_is:
            x = x.clone()
            with torch.no_grad():
                targets = in_groups(lambda part: self.objective.targets(part[0]), [x], group)
            found = self._search(x, targets, 0, group)
            for restart in range(1, self.descent.restarts):
                found = better_of(found, self._search(x, targets, restart, group))
        return found

    def _search(self, x: Tensor, targets: Targets, restart: int, group: int) -> Found:
        with torch.no_grad():
            start = in_groups(lambda part: self.start(part[0], restart), [x], group)
        sizes = self.descent
        search = Search(
            tuple(each.detach().clone() for each in start), targets, group=group, keeps_best=self.keep == "best"
        )
        for step in range(sizes.steps):
            loss, gradients = search.loss_and_gradients(self.objective, step)
            search.note(loss, step, patience=sizes.patience, improvement=sizes.improvement)
            if sizes.patience and step % LOOK_EVERY == 0:
                gradients = search.leave(gradients)
                if search.is_over:
                    return search.found()
            search.move(gradients, step, learning_rate=sizes.learning_rate * self.rate(step))
            self.settle(search.variables)
            between_steps((restart + (step + 1) / sizes.steps) / sizes.restarts)
        loss = search.last_loss(self.objective, sizes.steps)
        search.note(loss, sizes.steps, patience=sizes.patience, improvement=sizes.improvement)
        return search.found()


def default_group(side_px: int, device_type: str) -> int:
    """Tiles that are computed at once where nobody says; large ones by their pixels, as in a detector's batch.

    >>> [default_group(side_px, "cpu") for side_px in (32, 256, 512)], default_group(64, "cuda")
    ([16, 16, 4], 64)
    """
    most = GPU_GROUP if device_type == "cuda" else GROUP
    return max(1, most * FULL_BATCH_PX**2 // max(side_px, FULL_BATCH_PX) ** 2)


class ClosestDrawn:
    """Starts at drawn latents, the same for all tiles: for each tile at those whose pictures are closest to it.

    Closeness is the mean |x - G(z)|. With one candidate the latents are taken as they come, the next for each restart.
    """

    def __init__(self, space: LatentDraws, *, candidates: int, restarts: int) -> None:
        self._latents = space.drawn(max(candidates, restarts), seed=SEED)
        self._pictures: Tensor | None = None
        if candidates > 1:
            with torch.no_grad():
                self._pictures = torch.cat([space.pictures(part) for part in self._latents.split(GPU_GROUP)]).flatten(1)

    def __call__(self, x: Float[Tensor, "n 3 h w"], restart: int) -> Variables:
        """Latents [n, ...] where the restart with this number begins."""
        if self._pictures is None:
            return (self._latents[restart].expand(len(x), *self._latents.shape[1:]),)
        distances = torch.cdist(x.flatten(1), self._pictures, p=1)  # [n, candidates]
        return (self._latents[distances.topk(restart + 1, largest=False).indices[:, restart]],)
