"""Distances between two sets of features: the Frechet distance, and the kernel distance. Pure numpy, in float64.

Heusel et al. 2017, https://arxiv.org/abs/1706.08500, section 3: the Frechet distance of the Gaussians that have the
sets' means and covariances; on Inception's features, and on no others, it is the FID. It grows as sets get smaller, so
that figures compare at one size alone. Binkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 4: the squared
maximum mean discrepancy under a cubic kernel, which has no such bias and may come out below 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

ROWS_AT_ONCE = 4096
"""Features that are carried to float64 together."""

SUBSETS, SUBSET_ROWS = 100, 1000
"""Of the kernel distance, as in the code of its paper."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean [d] and covariance [d, d] of features, in float64."""

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]


def moments(features: Floats) -> Moments:
    """Mean and unbiased covariance of the rows of [n, d], as `np.cov` gives it; summed in parts.

    Raises:
        ValueError: fewer than two rows, or a value that is not finite.
    """
    if len(features) < 2 or not np.isfinite(features).all():
        raise ValueError(f"features {features.shape}: at least two rows of finite numbers are needed")
    mean = features.mean(axis=0, dtype=np.float64)
    total = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), ROWS_AT_ONCE):
        centred = features[start : start + ROWS_AT_ONCE] - mean
        total += centred.T @ centred
    return Moments(mean, total / (len(features) - 1))


def frechet_distance(x: Moments, y: Moments) -> float:
    """|m_x - m_y|^2 + Tr(C_x + C_y - 2 (C_x C_y)^(1/2)) (Heusel et al. 2017, eq. 6).

    The trace of the root of the product of two covariances is the sum of the singular values of the product of their
    symmetric roots. Directions without variance, of which there are many where sets are smaller than d, add nothing;
    a root of the product itself is not unique there, and comes out complex.
    """
    root_x, root_y = _root(x.covariance), _root(y.covariance)
    cross = np.linalg.svd(root_x.T @ root_y, compute_uv=False).sum()
    apart = ((x.mean - y.mean) ** 2).sum()
    return float(apart + np.trace(x.covariance) + np.trace(y.covariance) - 2 * cross)


def _root(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """R [d, r] with R R^T = C, of the r directions that have variance."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root: npt.NDArray[np.float64] = vectors[:, kept] * np.sqrt(values[kept])
    return root


def kernel_distance(x: Floats, y: Floats) -> float:
    """The unbiased estimate of MMD^2 between the rows of [n, d] and [m, d] (Binkowski et al. 2018, eq. 4).

    The kernel is (x . y / d + 1)^3 (section 4 there).
    """
    n, m = len(x), len(y)
    within_x, within_y = _cubic(x, x), _cubic(y, y)
    same_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    same_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(same_x + same_y - 2 * _cubic(x, y).mean())


def _cubic(x: Floats, y: Floats) -> npt.NDArray[np.float64]:
    product: npt.NDArray[np.float64] = x.astype(np.float64) @ y.astype(np.float64).T
    base: npt.NDArray[np.float64] = product / x.shape[1] + 1
    return base * base * base  # a power is ten times slower


def kernel_distances(
    x: Floats, y: Floats, *, rng: np.random.Generator, subsets: int = SUBSETS, rows: int = SUBSET_ROWS
) -> npt.NDArray[np.float64]:
    """[subsets], the kernel distance of random subsets, whose mean and deviation are reported.

    Args:
        x: [n, d].
        y: [m, d].
        rng: draws the subsets.
        subsets: how many.
        rows: of each subset; at most half of the smaller set, else all subsets are nearly the same one.
    """
    rows = max(2, min(rows, len(x) // 2, len(y) // 2))
    drawn = [[rng.choice(len(each), rows, replace=False) for each in (x, y)] for _ in range(subsets)]
    return np.array([kernel_distance(x[of_x], y[of_y]) for of_x, of_y in drawn])
