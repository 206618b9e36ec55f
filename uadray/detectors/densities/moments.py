"""Sums over vectors of features -> mean, covariance, shrinkage; and the linear map that is told from them.

Sums are what workers can average: of the means over workers of all sums, counts included, follow the mean and the
covariance of all vectors together. Vectors are taken from an origin near their mean, in float64, so that nothing
cancels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.trainee import UnsuitableTilesError

LEAST_SHARE = 1e-10
"""Of the largest eigenvalue: below it a direction is rounding, and is not whitened."""


class Moments(nn.Module):
    """What has been summed over vectors y = row - origin.

    Attributes of the state:
        origin: [C], near the mean.
        count: of rows.
        first: [C], sum of y.
        second: [C, C], sum of y y'.
        third: [C], sum of |y|^2 y; with `fourth` it tells the shrinkage.
        fourth: sum of |y|^4.
    """

    origin: Tensor
    count: Tensor
    first: Tensor
    second: Tensor
    third: Tensor
    fourth: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("first", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(channels, channels, dtype=torch.float64))
        self.register_buffer("third", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("fourth", torch.zeros((), dtype=torch.float64))

    def tally(self, rows: Float[Tensor, "m c"]) -> list[Tensor]:
        """What these rows add: count, first, second, third, fourth."""
        y = rows.double() - self.origin
        squares = y.square().sum(1)
        return [torch.ones_like(squares).sum(), y.sum(0), y.T @ y, squares @ y, squares.square().sum()]

    def add(self, tally: list[Tensor]) -> None:
        """Add what `tally` gave, or its mean over workers."""
        for total, more in zip((self.count, self.first, self.second, self.third, self.fourth), tally, strict=True):
            total += more

    def mean(self) -> Float[Tensor, " c"]:
        """Of all rows, in float64."""
        return self.origin + self.first / self.count

    def covariance(self) -> Float[Tensor, "c c"]:
        """Of all rows (over their number, not one less), in float64."""
        m = self.first / self.count
        return self.second / self.count - torch.outer(m, m)

    def shrinkage(self) -> Float[Tensor, ""]:
        """Ledoit-Wolf's share of the identity (2004, https://doi.org/10.1016/S0047-259X(03)00096-4), lemmas 3.2 to 3.4.

        It takes the sum of |row - mean|^4, which the five sums give. It is that of the mean count over workers: of
        several workers it is larger than of one with all rows, never smaller.
        """
        n, p = self.count, len(self.first)
        m, covariance = self.first / n, self.covariance()
        length, trace = m @ m, self.second.diagonal().sum()
        fourth = (
            self.fourth - 4 * m @ self.third + 2 * length * trace + 4 * m @ self.second @ m
            - 4 * length * (m @ self.first) + n * length.square()
        )  # fmt: skip
        squared = covariance.square().sum()
        scale = covariance.diagonal().mean()
        delta = squared - p * scale.square()
        beta = ((fourth / n - squared) / n).minimum(delta)
        return torch.where(delta > 0, beta / delta, 0.0).clamp(0, 1)

    def shrunk_covariance(self) -> Float[Tensor, "c c"]:
        """The covariance, and the shrinkage's share of its mean variance on the diagonal."""
        covariance, share = self.covariance(), self.shrinkage()
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        return (1 - share) * covariance + share * covariance.diagonal().mean() * identity


class Projection(nn.Module):
    """Features less their mean, times a matrix; NaN until it is fitted, so that what was not shows in each score."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, channels: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((channels,), torch.nan))
        self.register_buffer("matrix", torch.full((components, channels), torch.nan))

    def forward(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Every cell's vector; multiplied in float64, of which neither a GPU nor autocast takes fewer bits."""
        centred = z.double() - self.mean.double()[:, None, None]
        return torch.einsum("nchw,dc->ndhw", centred, self.matrix.double()).float()

    def set(self, mean: Tensor, matrix: Tensor) -> None:
        """Take what was fitted, in float64, as float32."""
        self.mean.copy_(mean)
        self.matrix.copy_(matrix)


def whitening(covariance: Float[Tensor, "c c"], components: int) -> Float[Tensor, "d c"]:
    """The principal directions, each over its deviation: rows are uncorrelated then, and have variance 1.

    Raises:
        UnsuitableTilesError: the features vary in fewer directions.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values[-components:]
    least = float(values[-1]) * LEAST_SHARE
    if not float(kept[0]) > max(least, 0.0):
        many = int((values > least).sum())
        raise UnsuitableTilesError(
            f"the features of the tiles vary in {many} directions; lower components to that, or train on more tiles"
        )
    matrix: Tensor = (vectors[:, -components:] / kept.sqrt()).T.flip(0)
    return matrix


def complement(covariance: Float[Tensor, "c c"], components: int) -> Float[Tensor, "d c"]:
    """The directions outside the first `components` principal ones, over the deviation of all of them together.

    The length of what they give has a mean square of 1 over the rows that the covariance is of.

    Raises:
        UnsuitableTilesError: the features do not vary outside.
    """
    values, vectors = torch.linalg.eigh(covariance)
    outside = values[: len(values) - components]
    variance = outside.clamp_min(0).sum()
    if not float(variance) > float(values[-1]) * LEAST_SHARE:
        raise UnsuitableTilesError(
            f"the features of the tiles do not vary outside {components} directions; lower components, or train on "
            "more tiles"
        )
    matrix: Tensor = (vectors[:, : len(outside)] / variance.sqrt()).T
    return matrix
