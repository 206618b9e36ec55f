"""What an encoder of f-AnoGAN is trained by, as pure functions named as in the paper; izi_f is in `detectors.losses`.

https://doi.org/10.1016/j.media.2019.01.010 (Schlegl et al. 2019, the section on the training of the encoder).
"""

from jaxtyping import Float
from torch import Tensor


def ziz(z: Float[Tensor, "n ..."], z_hat: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Latent to picture to latent: the mean squared residual of E(G(z)) from z, one value a sample.

    Args:
        z: drawn from the generator's distribution.
        z_hat: E(G(z)).
    """
    return (z - z_hat).square().flatten(1).mean(1)


def izi(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Image to latent to image: the mean squared residual of G(E(x)) from x, one value a sample; A_R as a score."""
    return (x - x_hat).square().flatten(1).mean(1)


def feature_residual(features: Float[Tensor, "n ..."], features_hat: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """The mean squared residual of a discriminator's features, one value a sample; A_D as a score.

    Args:
        features: f(x), the maps of an intermediate layer.
        features_hat: f(G(E(x))).
    """
    return (features - features_hat).square().flatten(1).mean(1)
