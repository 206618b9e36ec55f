"""A Gaussian mixture, kept as arrays: fitted by scikit-learn, scored by torch."""

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.densities.reservoir import Reservoir
from uadray.detectors.trainee import UnsuitableTilesError


class Mixture(nn.Module):
    """Gaussians with full covariances, and the sample of rows that they are fitted to.

    Attributes of the state:
        reservoir: of rows.
        shares: [k], of the Gaussians; NaN until it is fitted.
        means: [k, d].
        factors: [k, d, d], each such that factor times its transpose is the inverse of the covariance.
    """

    shares: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, gaussians: int, channels: int, *, rows: int) -> None:
        super().__init__()
        self.reservoir = Reservoir(rows, channels)
        self.register_buffer("shares", torch.full((gaussians,), torch.nan, dtype=torch.float64))
        self.register_buffer("means", torch.full((gaussians, channels), torch.nan, dtype=torch.float64))
        self.register_buffer("factors", torch.full((gaussians, channels, channels), torch.nan, dtype=torch.float64))

    def forward(self, rows: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
        """Log of the density at each row, in float64."""
        d = rows.shape[1]
        centred = rows.double()[None] - self.means[:, None]  # [k, m, d]
        squares = (centred @ self.factors).square().sum(2)
        scale = self.factors.diagonal(dim1=1, dim2=2).log().sum(1) + self.shares.log()
        return (scale[:, None] - squares / 2).logsumexp(0) - d / 2 * math.log(2 * math.pi)

    def fit(self, *, least_variance: float) -> None:
        """Expectation-maximisation over the rows of the reservoir, started by k-means.

        Args:
            least_variance: added to every Gaussian's variances.

        Raises:
            UnsuitableTilesError: too few rows were seen, or they do not suffice for so many Gaussians.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        gaussians = len(self.shares)
        rows = self.reservoir.at_least(2 * gaussians).double().cpu().numpy()
        seed = int(torch.randint(2**31, ()))
        model = GaussianMixture(gaussians, reg_covar=least_variance, max_iter=200, random_state=seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # what has been reached is a mixture all the same
                model.fit(rows)
        except ValueError as error:
            raise UnsuitableTilesError(
                f"{len(rows)} vectors of features do not suffice for {gaussians} Gaussians of {rows.shape[1]} "
                f"dimensions: {error}"
            ) from error
        self.shares.copy_(torch.from_numpy(model.weights_))
        self.means.copy_(torch.from_numpy(model.means_))
        self.factors.copy_(torch.from_numpy(model.precisions_cholesky_))
