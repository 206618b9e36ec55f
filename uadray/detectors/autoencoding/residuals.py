"""Residuals of features against those of held-out normal tiles: their Mahalanobis distance.

A residual f(x) - f(x_hat) has a mean and a covariance on normal tiles that an autoencoder has not seen; a direction in
which it fails on normal tiles as well tells nothing. Mean and covariance are by channel and pooled over places.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors.densities.moments import Moments
from uadray.detectors.latents import Latent
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import UnsuitableTilesError

FLOOR = 1e-6
"""Least eigenvalue of a covariance, relative to their mean: a channel that is constant has no direction."""


class Residuals(nn.Module):
    """Mean and shrunk covariance of residuals, one for each layer; told from sums, so that no residual is kept."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.moments = nn.ModuleList(Moments(c) for c in channels)
        for i, c in enumerate(channels):
            self.register_buffer(f"mean{i}", torch.zeros(c))
            self.register_buffer(f"whitening{i}", torch.eye(c))
            self.register_buffer(f"shrinkage{i}", torch.ones((), dtype=torch.float64))

    def of_layers(self) -> list[Moments]:
        """The sums of each layer."""
        return [cast(Moments, moments) for moments in self.moments]

    def sums(self, residuals: Sequence[Float[Tensor, "n _ _ _"]]) -> list[list[Tensor]]:
        """What `add` takes, of the residuals [N, C, h, w] of each layer."""
        pairs = zip(self.of_layers(), residuals, strict=True)
        return [moments.tally(residual.movedim(1, -1).flatten(0, 2)) for moments, residual in pairs]

    def add(self, sums: Sequence[list[Tensor]]) -> None:
        """Count more residuals."""
        for moments, of_layer in zip(self.of_layers(), sums, strict=True):
            moments.add(of_layer)

    def fit(self) -> None:
        """Mean and covariance of all that was counted.

        Raises:
            UnsuitableTilesError: nothing was, or all residuals are the same.
        """
        for i, moments in enumerate(self.of_layers()):
            if not moments.count > 1:
                raise UnsuitableTilesError("no residual of a normal tile was seen")
            covariance = moments.shrunk_covariance()
            if not covariance.trace() > 0:
                raise UnsuitableTilesError("the residuals of all normal tiles are the same; no distance can be told")
            self.get_buffer(f"mean{i}").copy_(moments.mean())
            self.get_buffer(f"whitening{i}").copy_(whitening(covariance))
            self.get_buffer(f"shrinkage{i}").copy_(moments.shrinkage())

    def distances(self, residuals: Sequence[Float[Tensor, "n _ _ _"]]) -> list[Float[Tensor, "n _ _"]]:
        """Squared Mahalanobis distance a channel at each place, one map [N, h, w] a layer; about 1 of normal tiles."""
        maps = []
        for i, residual in enumerate(residuals):
            centred = residual.float() - self.get_buffer(f"mean{i}")[:, None, None]
            white = F.conv2d(centred, self.get_buffer(f"whitening{i}")[:, :, None, None])
            maps.append(white.square().mean(1))
        return maps


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
