"""Features of tiles as a density sees them, projected where it projects them; in training and in scoring alike."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.densities.moments import Moments, Projection
from uadray.detectors.densities.reservoir import Reservoir
from uadray.detectors.detector import default_batch
from uadray.detectors.trainee import Average, Losses
from uadray.networks.outline import Networks

PROJECTED_FROM = 0.5
"""Share of the steps in which features are summed; in the others, projected by these sums, they are kept."""


@contextmanager
def exact() -> Iterator[None]:
    """While it lasts, a GPU multiplies float32 with all bits, as it does in scoring."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


class ProjectedFeatures:
    """Tiles -> vectors of their cells: the stage `map`."""

    def __init__(self, networks: Mapping[str, nn.Module], *, is_projected: bool) -> None:
        self.features = networks["features"]
        self.projection = networks["projection"] if is_projected else None

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Tensor:
        """[N, d, h', w'] of tiles in [-1, 1]."""
        z: Tensor = self.features(x)
        return z if self.projection is None else self.projection(z)


class SeenFeatures:
    """Features of the tiles of a training, in full precision as in scoring, and what is fitted to them step by step.

    Args:
        networks: `features`, and `moments` and `projection` where there is one.
        average: of the workers.
    """

    def __init__(self, networks: Networks, *, average: Average) -> None:
        self.average = average
        self.features = networks["features"]
        self.moments = cast(Moments, networks["moments"]) if "moments" in networks else None
        self.projection = cast(Projection, networks["projection"]) if "projection" in networks else None

    def place(self, x: Tensor) -> None:
        """Set the origin of the sums to the mean features of tiles x [N, 3, h, w], of all workers."""
        if self.moments is None:
            return
        origin = self.rows(x).double().mean(0)
        self.average([origin])
        self.moments.origin.copy_(origin)

    @torch.no_grad()
    def sum(self, x: Tensor) -> Losses:
        """Add the features of tiles, and those of all workers; their mean deviation."""
        if self.moments is None:
            raise TypeError("there are no sums to add to")
        rows = self.rows(x)
        tally = self.moments.tally(rows)
        self.average(tally)
        self.moments.add(tally)
        return {"deviation": rows.std(0, correction=0).mean()}

    @torch.no_grad()
    def project(self, matrix: Callable[[Moments], Tensor]) -> None:
        """Fit the projection to the sums."""
        if self.moments is None or self.projection is None:
            raise TypeError("there is no projection to fit")
        self.projection.set(self.moments.mean(), matrix(self.moments))

    @torch.no_grad()
    def keep(self, x: Tensor, reservoir: Reservoir) -> Losses:
        """Show a reservoir the projected features of tiles; their root mean square."""
        rows = self.rows(x, self.projection)
        reservoir.add(rows)
        return {"size": rows.square().mean().sqrt()}

    @torch.no_grad()
    def rows(self, x: Tensor, projection: nn.Module | None = None) -> Float[Tensor, "m d"]:
        """Vectors of the cells of tiles x [N, 3, h, w]."""
        parts = list[Tensor]()
        with torch.autocast(x.device.type, enabled=False), exact():
            for batch in x.split(default_batch(x.shape[-1], x.device.type)):
                z = self.features(batch)
                parts.append(z if projection is None else projection(z))
        return torch.cat(parts).permute(0, 2, 3, 1).flatten(0, 2)
