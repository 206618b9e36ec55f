"""Residuals of features against those of held-out normal tiles: their Mahalanobis distance.

A residual f(x) - f(x_hat) has a mean and a covariance on normal tiles that an autoencoder has not seen; a direction in
which it fails on normal tiles as well tells nothing. Mean and covariance are by channel and pooled over places.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors.latents import Latent
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import UnsuitableTilesError

FLOOR = 1e-6
"""Least eigenvalue of a covariance, relative to their mean: a channel that is constant has no direction."""

SUMS = ("n", "first", "second", "third", "fourth")


class Residuals(nn.Module):
    """Mean and shrunk covariance of residuals, one for each layer.

    The shrinkage is that of Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
    matrices", for which the sums of r, r r', |r|^2 r and |r|^4 are enough: no residual is kept.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.layers = len(channels)
        for i, c in enumerate(channels):
            for name, shape in zip(SUMS, ((), (c,), (c, c), (c,), ()), strict=True):
                self.register_buffer(f"{name}{i}", torch.zeros(shape, dtype=torch.float64))
            self.register_buffer(f"mean{i}", torch.zeros(c))
            self.register_buffer(f"whitening{i}", torch.eye(c))
            self.register_buffer(f"shrinkage{i}", torch.ones((), dtype=torch.float64))

    def sums(self, residuals: Sequence[Float[Tensor, "n _ _ _"]]) -> list[Tensor]:
        """What `add` takes, of the residuals [N, C, h, w] of each layer."""
        taken: list[Tensor] = []
        for residual in residuals:
            r = residual.double().transpose(0, 1).flatten(1)  # [C, N h w]
            norm = r.square().sum(0)
            taken += [r.new_full((), r.shape[1]), r.sum(1), r @ r.T, r @ norm, norm.square().sum()]
        return taken

    def add(self, sums: Sequence[Tensor]) -> None:
        """Count more residuals."""
        names = (f"{name}{i}" for i in range(self.layers) for name in SUMS)
        for name, value in zip(names, sums, strict=True):
            self.get_buffer(name).add_(value)

    def fit(self) -> None:
        """Mean and covariance of all that was counted.

        Raises:
            UnsuitableTilesError: nothing was, or all residuals are the same.
        """
        for i in range(self.layers):
            n, first, second, third, fourth = (self.get_buffer(f"{name}{i}") for name in SUMS)
            if not n > 1:
                raise UnsuitableTilesError("no residual of a normal tile was seen")
            mean, covariance, shrinkage = ledoit_wolf(n, first, second, third, fourth)
            if not covariance.trace() > 0:
                raise UnsuitableTilesError("the residuals of all normal tiles are the same; no distance can be told")
            self.get_buffer(f"mean{i}").copy_(mean)
            self.get_buffer(f"whitening{i}").copy_(whitening(covariance))
            self.get_buffer(f"shrinkage{i}").copy_(shrinkage)

    def distances(self, residuals: Sequence[Float[Tensor, "n _ _ _"]]) -> list[Float[Tensor, "n _ _"]]:
        """Squared Mahalanobis distance a channel at each place, one map [N, h, w] a layer; about 1 of normal tiles."""
        maps = []
        for i, residual in enumerate(residuals):
            centred = residual.float() - self.get_buffer(f"mean{i}")[:, None, None]
            white = F.conv2d(centred, self.get_buffer(f"whitening{i}")[:, :, None, None])
            maps.append(white.square().mean(1))
        return maps


def ledoit_wolf(
    n: Tensor, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor
) -> tuple[Float[Tensor, " c"], Float[Tensor, "c c"], Float[Tensor, ""]]:
    """Mean, covariance and shrinkage (Ledoit and Wolf 2004, section 3.3) from sums over n samples r.

    Args:
        n: how many.
        first: sum of r, [C].
        second: sum of r r', [C, C].
        third: sum of |r|^2 r, [C].
        fourth: sum of |r|^4.
    """
    mean = first / n
    empirical = second / n - torch.outer(mean, mean)
    p = len(mean)
    scale = empirical.trace() / p
    # the sum of |r - mean|^4, multiplied out
    square = mean @ mean
    spread = fourth + 4 * mean @ second @ mean - 4 * third @ mean + 2 * second.trace() * square - 3 * n * square**2
    of_samples = (spread / n - empirical.square().sum()) / n
    of_target = empirical.square().sum() - p * scale**2
    shrinkage = torch.where(of_samples > 0, of_samples / of_target, 0.0).clamp(0, 1)
    covariance = (1 - shrinkage) * empirical + shrinkage * scale * torch.eye(p, dtype=mean.dtype, device=mean.device)
    return mean, covariance, shrinkage


def whitening(covariance: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    """W with W' W the inverse of a covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    white: Tensor = (vectors / values.clamp_min(FLOOR * values.mean()).sqrt()) @ vectors.T
    return white


class MahalanobisScore:
    """Mahalanobis distance of the residuals of features from those of normal tiles."""

    def __init__(self, features: nn.Module, residuals: nn.Module) -> None:
        if not isinstance(residuals, Residuals):
            raise TypeError(f"residuals: expected Residuals, found {type(residuals).__name__}")
        self.features, self.residuals = features, residuals

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """Means over places and layers; the map has the layers enlarged to the finest of them."""
        pairs = zip(self.features(x), self.features(picture_of(x_hat)), strict=True)
        maps = self.residuals.distances([f - f_hat for f, f_hat in pairs])
        score = torch.stack([m.flatten(1).mean(1) for m in maps]).mean(0)
        side = max(tuple(m.shape[-2:]) for m in maps)
        same = [F.interpolate(m[:, None], size=side, mode="bilinear", align_corners=False) for m in maps]
        return score, torch.stack(same).mean(0).squeeze(1)
