"""Losses as pure functions, named as in their papers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def relative_perceptual_l1(features: Sequence[Tensor], features_hat: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """Relative perceptual L1 (Tuluptceva et al. 2020, eq. 2): ||f(x) - f(x_hat)||_1 / ||f(x)||_1, mean over layers.

    Args:
        features: one [N, C, h, w] a layer, normalised by channel.
        features_hat: the same of the reconstruction.

    Returns:
        One value a sample.
    """
    layers = [
        (f_hat - f).abs().flatten(1).mean(1) / f.abs().flatten(1).mean(1).clamp_min(1e-6)
        for f, f_hat in zip(features, features_hat, strict=True)
    ]
    return torch.stack(layers).mean(0)


def relative_perceptual_l2(features: Sequence[Tensor], features_hat: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """The same with squared L2 norms: ||f(x) - f(x_hat)||_2^2 / ||f(x)||_2^2, mean over layers; one value a sample."""
    layers = [
        (f_hat - f).square().flatten(1).mean(1) / f.square().flatten(1).mean(1).clamp_min(1e-6)
        for f, f_hat in zip(features, features_hat, strict=True)
    ]
    return torch.stack(layers).mean(0)


def perceptual_l1(features: Sequence[Tensor], features_hat: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """The same without the relation to ||f(x)||_1: mean |f(x) - f(x_hat)|, mean over layers; one value a sample."""
    layers = [(f_hat - f).abs().flatten(1).mean(1) for f, f_hat in zip(features, features_hat, strict=True)]
    return torch.stack(layers).mean(0)


def l1(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Mean |x - x_hat| over pixels and channels, one value a sample."""
    return (x - x_hat).abs().flatten(1).mean(1)


def relative_l1(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Relative L1 on pixels: mean |x - x_hat| over mean |x - mean colour of x|, so that it stands on the same scale."""
    spread = (x - x.mean((2, 3), keepdim=True)).abs().flatten(1).mean(1)
    return (x - x_hat).abs().flatten(1).mean(1) / spread.clamp_min(1e-2)


def izi_f(
    x: Float[Tensor, "n 3 h w"],
    x_hat: Float[Tensor, "n 3 h w"],
    features: Tensor,
    features_hat: Tensor,
    *,
    kappa: float,
) -> Float[Tensor, " n"]:
    """izi_f loss and anomaly score of f-AnoGAN (Schlegl et al. 2019, eq. 4 and 5).

    Mean squared residual of the image plus `kappa` times that of the critic's features, one value a sample.
    """
    image = (x - x_hat).square().flatten(1).mean(1)
    feature = (features - features_hat).square().flatten(1).mean(1)
    return image + kappa * feature
